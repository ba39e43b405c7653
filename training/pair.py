"""The pair: target and drafter trained together, so that the target also learns to be predictable.

A target trained alone knows its corpus half by heart and is sure of itself in ways that no small model can follow.
Here it grows by a few layers, and both models go on together: the target still learns next tokens, and both pay for
where their distributions differ. Peers of different size that learn from each other: Zhang et al. 2018, arXiv
1706.00384.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from training.attention import NAME as ATTENTION
from training.corpus import TEST_SPLITS, Split
from training.optimizer import Course, Rates, make_optimizers
from training.trainer import Phase, Plan, train
from training.windows import Windows
from training.workers import Loss

SEED = 3011
LAYERS = 12


def plan_of(steps: int) -> Plan:
    """One rise and fall of the rates over so many steps of eight windows."""
    return Plan(
        phases=(Phase(window_tokens=1024, rows=8, piece_rows=2, tokens=steps * 8 * 1024),),
        course=Course(warmup_share=0.03, decay_share=0.9),
        seed=SEED,
    )


@dataclass(frozen=True, slots=True)
class Cycle:
    """One rise and fall of the rates.

    Attributes:
        tests: the split of the library's tests that is read beside the library.
        agreement_weight: what a nat of disagreement costs, in nats of next-token loss.
        target_rates: of the target's weights.
        draft_rates: of the drafter's.
        steps: of eight windows of 1,024 tokens.
    """

    tests: Split
    agreement_weight: float
    target_rates: Rates
    draft_rates: Rates
    steps: int

    @property
    def plan(self) -> Plan:
        """Phases and course of the rates."""
        return plan_of(self.steps)


CYCLES = (
    Cycle(
        tests="tests",
        agreement_weight=1.0,
        target_rates=Rates(matrix_lr=2.5e-3, vector_lr=1.5e-3, matrix_decay=0.2),
        draft_rates=Rates(matrix_lr=6e-3, vector_lr=3e-3, matrix_decay=0.02),
        steps=430,
    ),
    Cycle(
        tests="more_tests",
        agreement_weight=0.7,
        target_rates=Rates(matrix_lr=1.8e-3, vector_lr=1e-3, matrix_decay=0.3),
        draft_rates=Rates(matrix_lr=5e-3, vector_lr=2.5e-3, matrix_decay=0.02),
        steps=220,
    ),
    Cycle(
        tests="last_tests",
        agreement_weight=1.1,
        target_rates=Rates(matrix_lr=1.8e-3, vector_lr=1e-3, matrix_decay=0.3),
        draft_rates=Rates(matrix_lr=6e-3, vector_lr=3e-3, matrix_decay=0.02),
        steps=240,
    ),
)


SHARE_OF_LAST = 0.85
SHARE_OF_LAST_FOLLOWING = 0.5
FOLLOWING_RATES = Rates(matrix_lr=5e-3, vector_lr=2.5e-3, matrix_decay=0.02)
FOLLOWING_PLAN = plan_of(steps=200)
BEST_GUESS_WEIGHTS = (0.0, 1.0)
"""Of each of the drafter's own cycles: how much the target's most likely token counts extra, see `pair_loss`."""


class Pair(nn.Module):
    """Both models, as one thing to train."""

    def __init__(self, target: LlamaForCausalLM, draft: LlamaForCausalLM):
        super().__init__()
        self.target = target
        self.draft = draft


def load_for_training(folder: Path) -> LlamaForCausalLM:
    """Load a saved model in float32, with the attention that training uses."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=ATTENTION
    )
    model.config.use_cache = False
    return model


def add_layers(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """Make a deeper model that computes the same: new layers stand between old ones and add nothing yet.

    A new layer is a copy of the one before it whose output projections are zero.
    """
    config = LlamaConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": layers})
    config._attn_implementation = ATTENTION
    grown = LlamaForCausalLM(config)
    old_layers = model.config.num_hidden_layers
    sources = [place * old_layers // layers for place in range(layers)]
    state = {name: weight for name, weight in model.state_dict().items() if ".layers." not in name}
    grown.load_state_dict(state, strict=False)
    for place, source in enumerate(sources):
        layer = grown.model.layers[place]
        layer.load_state_dict(model.model.layers[source].state_dict())
        if place and sources[place - 1] == source:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    return grown


def pair_loss(pair: Pair, agreement_weight: float, best_guess_weight: float = 0.0) -> Loss:
    """Next-token loss of the target, plus what the two models' disagreement costs both.

    Disagreement is the divergence of the drafter from the target, plus the negative logarithm of what the two
    distributions have in common. The negative logarithm of what the drafter gives the target's most likely token can be
    added, which is what greedy acceptance asks for.
    """
    for layer in (*pair.target.model.layers, *pair.draft.model.layers):
        layer.compile(dynamic=False)

    @torch.compile(dynamic=False)
    def costs(
        target_hidden: Tensor, draft_hidden: Tensor, target_head: Tensor, draft_head: Tensor, nexts: Tensor
    ) -> Tensor:
        target_logits = torch.nn.functional.linear(target_hidden, target_head).flatten(0, 1).float()
        draft_logits = torch.nn.functional.linear(draft_hidden, draft_head).flatten(0, 1).float()
        target_logprobs = torch.log_softmax(target_logits, dim=-1)
        draft_logprobs = torch.log_softmax(draft_logits, dim=-1)
        loss = -target_logprobs.gather(1, nexts.reshape(-1, 1)).squeeze(1)
        target_probs = target_logprobs.exp()
        divergence = (target_probs * (target_logprobs - draft_logprobs)).sum(-1)
        overlap = torch.minimum(target_probs, draft_logprobs.exp()).sum(-1)
        best_guess = draft_logprobs.gather(1, target_logprobs.argmax(-1, keepdim=True))
        return torch.stack((loss.mean(), divergence.mean(), -overlap.log().mean(), -best_guess.mean()))

    def loss(token_ids: Tensor, next_token_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            target_hidden = pair.target.model(input_ids=token_ids).last_hidden_state
            draft_hidden = pair.draft.model(input_ids=token_ids).last_hidden_state
            next_token, divergence, difference, best_guess = costs(
                target_hidden, draft_hidden, pair.target.lm_head.weight, pair.draft.lm_head.weight, next_token_ids
            )
        total: Tensor = next_token + agreement_weight * (divergence + difference) + best_guess_weight * best_guess
        return total

    return loss


def train_pair(
    target_folder: Path,
    draft_folder: Path,
    documents: Mapping[Split, Sequence[Sequence[int]]],
    work: Path,
) -> Pair:
    """Train a saved target, grown, and a saved drafter together, from the last checkpoint in `work` if there is one.

    After the cycles both become an average of where the last two ended, and the drafter follows a target that stands
    still, twice, and becomes an average of these.
    """
    torch.manual_seed(SEED)
    pair = Pair(add_layers(load_for_training(target_folder), LAYERS), load_for_training(draft_folder))
    for number, cycle in enumerate(CYCLES, 1):
        optimizers = [
            *make_optimizers(pair.target, cycle.target_rates),
            *make_optimizers(pair.draft, cycle.draft_rates),
        ]
        read = [*documents["train"], *documents[cycle.tests]]
        sources = [Windows(read, phase.window_tokens, phase.rows, SEED) for phase in cycle.plan.phases]
        loss = partial(pair_loss, agreement_weight=cycle.agreement_weight)
        name = f"pair {number}/{len(CYCLES)}"
        train(pair, optimizers, loss, sources, cycle.plan, work / f"pair-{number}.pt", name)
    _average(pair, work / f"pair-{len(CYCLES) - 1}.pt", work / f"pair-{len(CYCLES)}.pt", SHARE_OF_LAST)
    pair.target.requires_grad_(False)
    read = [*documents["train"], *(each for split in TEST_SPLITS for each in documents[split])]
    for number, weight in enumerate(BEST_GUESS_WEIGHTS, 1):
        sources = [Windows(read, phase.window_tokens, phase.rows, SEED + number) for phase in FOLLOWING_PLAN.phases]
        optimizers = [*make_optimizers(pair.draft, FOLLOWING_RATES)]
        loss = partial(pair_loss, agreement_weight=1.0, best_guess_weight=weight)
        name = f"drafter {number}/{len(BEST_GUESS_WEIGHTS)}"
        train(pair, optimizers, loss, sources, FOLLOWING_PLAN, work / f"following-{number}.pt", name)
    _average(pair, work / "following-1.pt", work / f"following-{number}.pt", SHARE_OF_LAST_FOLLOWING)
    return pair


def _average(pair: Pair, before: Path, last: Path, share_of_last: float) -> None:
    """Set the weights between those of two checkpoints, which do better than the line between their figures."""
    states = [torch.load(checkpoint, weights_only=True)["model"] for checkpoint in (before, last)]
    pair.load_state_dict({name: torch.lerp(states[0][name], states[1][name], share_of_last) for name in states[0]})
