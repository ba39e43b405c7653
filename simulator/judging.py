"""A drafter's guesses along the target's text, and how each acceptance rule judges them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simulator.trace import RANKS, Trace
from sybil_engine.core.noise import NoiseTape, Stream, uniform_noise
from sybil_engine.core.types import SamplingParams
from sybil_engine.sampling.shaping import shape_logits


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to complete."""

    prompt_id: str
    token_ids: tuple[int, ...]
    seed: int


def judge(task: Task, params: SamplingParams, text: Tensor, target_logits: Tensor, draft_logits: Tensor) -> Trace:
    """Compute the drafter's guesses along a text, and how the ratio test would judge its drafts.

    Args:
        text: [tokens], the target's.
        target_logits, draft_logits: [tokens, vocabulary], float32, each row given the text before its token.
    """
    tokens, vocabulary_size = draft_logits.shape
    start = len(task.token_ids)
    draft_shaped = shape_logits(draft_logits, params)
    draft_probabilities = _probabilities(draft_shaped, params)
    target_probabilities = _probabilities(shape_logits(target_logits, params), params)
    scores = draft_shaped
    if not params.greedy:
        noise = NoiseTape(task.seed, vocabulary_size).rows(start, tokens)
        scores = draft_shaped + noise
    shared_ids, own_ids = _best(scores), _best(draft_shaped)
    coins = uniform_noise([task.seed] * tokens, range(start, start + tokens), 3, Stream.COIN)
    drafted, wanted = (each.gather(1, text[:, None])[:, 0] for each in (draft_probabilities, target_probabilities))
    accepted = coins[:, 0] * wanted < drafted
    # If the ratio test rejects, the drafted token was one that the drafter finds likelier than the target does.
    excess = (draft_probabilities - target_probabilities).clamp(min=0)
    rejected_ids = _draw(excess, coins[:, 1])
    return Trace(
        prompt_id=task.prompt_id,
        temperature=params.temperature,
        seed=task.seed,
        target_ids=text.numpy(),
        shared_ids=shared_ids.numpy(),
        shared_certainties=torch.softmax(scores, dim=-1).gather(1, shared_ids).numpy(),
        own_ids=own_ids.numpy(),
        accepted=accepted.numpy(),
        own_draft_ids=torch.where(accepted, text, rejected_ids).numpy(),
        bonus_matched=(coins[:, 2] < drafted).numpy(),
        prompt_ids=task.token_ids,
        vocabulary_size=vocabulary_size,
    )


def _probabilities(shaped: Tensor, params: SamplingParams) -> Tensor:
    if params.greedy:
        return torch.zeros_like(shaped).scatter_(1, shaped.argmax(dim=-1, keepdim=True), 1.0)
    return torch.softmax(shaped, dim=-1)


def _best(scores: Tensor) -> Tensor:
    """[tokens, 8], the tokens with the best scores; ties go to the lowest token id."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :RANKS].contiguous()


def _draw(weights: Tensor, coins: Tensor) -> Tensor:
    """Draw a token of each row, by weights that need not sum to 1."""
    sums = weights.cumsum(dim=-1)
    drawn = torch.searchsorted(sums, (coins * sums[:, -1])[:, None], right=True)[:, 0]
    return drawn.clamp(max=weights.shape[1] - 1)
