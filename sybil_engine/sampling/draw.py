"""From logits to a token. Drafter and verifier call the same functions: the same logits draw the same token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.types import CUT_TOKENS, Distribution, SamplingParams
from sybil_engine.sampling.shaping import shape_logits


def draw_tokens(shaped: Tensor, noise: Tensor | None) -> Tensor:
    """Draw each row's token by the Gumbel-max rule.

    Args:
        shaped: [rows, vocabulary], as `shape_logits` returns it.
        noise: [rows, vocabulary], standard Gumbel; None draws the most likely token.

    Returns:
        [rows], int64. With fresh noise, an exact sample of the shaped distribution.
    """
    return torch.argmax(shaped if noise is None else shaped + noise, dim=-1)


@dataclass(frozen=True, slots=True)
class Draw:
    """Tokens that one session draws from a pass: one for each row, from `position` on.

    Attributes:
        noise: the session's tape; not read under greedy sampling.
    """

    params: SamplingParams
    noise: NoiseTape
    position: int
    rows: int


def draw_rows(logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
    """Draw the tokens of every session of a pass.

    Args:
        logits: [rows, vocabulary], float32, the rows of the draws in order.

    Returns:
        [rows] token ids, int64, and [rows, vocabulary] shaped logits. A row depends on its own logits alone.
    """
    shaped, scores = _score_rows(logits, draws)
    return draw_tokens(scores, None), shaped


def _score_rows(logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
    """Shaped logits, and the same plus noise in rows that are sampled; both [rows, vocabulary]."""
    parts = []
    start = 0
    for params, group in groupby(draws, key=lambda draw: draw.params):
        members = list(group)
        rows = sum(draw.rows for draw in members)
        shaped = shape_logits(logits[start : start + rows], params)
        start += rows
        if params.greedy:
            parts.append((shaped, shaped))
        else:
            noise = [draw.noise.rows(draw.position, draw.rows) for draw in members]
            parts.append((shaped, shaped + (noise[0] if len(noise) == 1 else torch.cat(noise))))
    if len(parts) == 1:
        return parts[0]
    every_shaped, every_score = zip(*parts, strict=True)
    return torch.cat(every_shaped), torch.cat(every_score)


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that may come next.

    Attributes:
        certainty: the model's own probability for it, under the session's noise.
        distribution: under the ratio test, the distribution that the token was drawn from.
    """

    token_id: int
    certainty: float
    distribution: Distribution | None = None


def rank_rows(logits: Tensor, draws: Sequence[Draw], count: int) -> list[tuple[Guess, ...]]:
    """Rank the tokens that each row might draw; the first is the one that `draw_rows` draws.

    Args:
        logits: [rows, vocabulary], float32.
        draws: one for each row.
        count: the most guesses for each row. Tokens that sampling rules out are not guesses.

    Returns:
        [rows] of guesses, best first.
    """
    _, scores = _score_rows(logits, draws)
    drawn = draw_tokens(scores, None)
    if count == 1:
        certainties = torch.softmax(scores, dim=-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        return [(Guess(*guess),) for guess in zip(drawn.tolist(), certainties.tolist(), strict=True)]
    best, token_ids = torch.softmax(scores, dim=-1).topk(min(count, scores.shape[-1]), dim=-1)
    ranked = []
    for first, certainties, others in zip(drawn.tolist(), best.tolist(), token_ids.tolist(), strict=True):
        runners_up = [
            Guess(token_id, certainty)
            for token_id, certainty in zip(others, certainties, strict=True)
            if token_id != first and certainty > 0
        ]
        ranked.append((Guess(first, certainties[0]), *runners_up[: count - 1]))
    return ranked


def draw_cut_row(logits: Tensor, draw: Draw) -> Guess:
    """Draw a draft for the ratio test: one row's token, from its most likely tokens, with their distribution.

    Args:
        logits: [vocabulary], float32.
    """
    shaped = shape_logits(logits.unsqueeze(0), draw.params)[0]
    kept, token_ids = shaped.sort(descending=True, stable=True)
    possible = int((kept[:CUT_TOKENS] > -math.inf).sum())
    probabilities = torch.softmax(kept[:possible], dim=-1)
    token_ids = token_ids[:possible]
    noise = draw.noise.rows(draw.position, 1)[0]
    chosen = int((kept[:possible] + noise[token_ids]).argmax())
    distribution = Distribution(tuple(token_ids.tolist()), tuple(probabilities.tolist()))
    return Guess(int(token_ids[chosen]), distribution.probabilities[chosen], distribution)
