"""The stages: the target alone, then the drafter, then both together, so that the target learns to be predictable.

A target trained alone has memorised half its corpus, and is confident in ways that no small model can follow. In the
last stage it grows by a few layers, and both models train together: the target still learns next tokens, and the loss
of both includes the difference of their distributions. Source: Zhang et al. 2018, arXiv 1706.00384 (peers of different
size that learn from each other).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.corpus import TEST_SPLITS, Split
from training.losses import next_token_loss, pair_loss
from training.models import DRAFT, TARGET, TrainedPair, add_layers, load_for_training, make_model, start_from_target
from training.optimizer import Rates, make_optimizers
from training.trainer import Phase, TrainingPlan, train
from training.windows import Documents

TARGET_SEED = 2026
LOWER_RATES = Rates(matrix_lr=2e-3, vector_lr=1e-3, matrix_decay=0.3)
TARGET_CYCLES = (
    (
        TrainingPlan(
            phases=(
                Phase(window_tokens=512, rows=12, piece_rows=2, steps=343),
                Phase(window_tokens=1024, rows=8, piece_rows=2, steps=390),
            ),
            warmup_share=0.02,
            decay_share=0.6,
            seed=TARGET_SEED,
        ),
        Rates(matrix_lr=4e-3, vector_lr=3e-3, matrix_decay=0.1),
    ),
    (TrainingPlan.of_one_phase(140, 0.05, TARGET_SEED + 10), LOWER_RATES),
    (TrainingPlan.of_one_phase(150, 0.05, TARGET_SEED + 11), LOWER_RATES),
)
"""After the first cycle the rates rise and fall again, half as high, over the same text in another order."""

DRAFT_PLAN = TrainingPlan(
    (Phase(window_tokens=1024, rows=4, piece_rows=1, steps=878),), warmup_share=0.02, decay_share=0.6, seed=1112
)
DRAFT_RATES = Rates(matrix_lr=6e-3, vector_lr=3e-3, matrix_decay=0.02)

PAIR_SEED = 3011
LAYERS = 12


@dataclass(frozen=True, slots=True)
class PairCycle:
    """One rise and fall of the rates.

    Attributes:
        tests: the split of the library's tests that is used with the library.
        agreement_weight: cost of a nat of disagreement, in nats of next-token loss.
        target_rates: of the target's weights.
        draft_rates: of the drafter's.
        plan: phases and course of the rates.
    """

    tests: Split
    agreement_weight: float
    target_rates: Rates
    draft_rates: Rates
    plan: TrainingPlan


FOLLOWING_RATES = Rates(matrix_lr=5e-3, vector_lr=2.5e-3, matrix_decay=0.02)
FIRST_RATES = Rates(matrix_lr=2.5e-3, vector_lr=1.5e-3, matrix_decay=0.2)
LATER_RATES = Rates(matrix_lr=1.8e-3, vector_lr=1e-3, matrix_decay=0.3)
PAIR_CYCLES = (
    PairCycle("tests", 1.0, FIRST_RATES, DRAFT_RATES, TrainingPlan.of_one_phase(430, 0.03, PAIR_SEED)),
    PairCycle("more_tests", 0.7, LATER_RATES, FOLLOWING_RATES, TrainingPlan.of_one_phase(220, 0.03, PAIR_SEED)),
    PairCycle("last_tests", 1.1, LATER_RATES, DRAFT_RATES, TrainingPlan.of_one_phase(240, 0.03, PAIR_SEED)),
)
SHARE_OF_LAST = 0.85
FOLLOWING_PLANS = tuple(TrainingPlan.of_one_phase(200, 0.03, PAIR_SEED + number) for number in (1, 2))
BEST_GUESS_WEIGHTS = (0.0, 1.0)
"""For each of the drafter's own cycles: extra weight of the target's most likely token, see `pair_loss`."""
SHARE_OF_LAST_FOLLOWING = 0.5


def train_target(tokenizer: PreTrainedTokenizerFast, documents: Documents, work: Path) -> LlamaForCausalLM:
    """Train the target on next tokens, from the last checkpoint in `work` if there is one."""
    model = make_model(TARGET, tokenizer, TARGET_SEED)
    for number, (plan, rates) in enumerate(TARGET_CYCLES, 1):
        train(model, make_optimizers(model, rates), next_token_loss, documents, plan, work / f"target-{number}.pt")
    return model


def train_draft(
    target_folder: Path, tokenizer: PreTrainedTokenizerFast, documents: Documents, work: Path
) -> LlamaForCausalLM:
    """Distil a drafter from a saved, fixed target, from its checkpoint in `work` if there is one."""
    pair = TrainedPair(load_for_training(target_folder), make_model(DRAFT, tokenizer, DRAFT_PLAN.seed))
    pair.target.requires_grad_(False)
    start_from_target(pair.draft, pair.target)
    loss = partial(pair_loss, agreement_weight=1.0)
    train(pair, make_optimizers(pair.draft, DRAFT_RATES), loss, documents, DRAFT_PLAN, work / "draft.pt")
    return pair.draft


def train_pair(
    target_folder: Path, draft_folder: Path, documents: Mapping[Split, Documents], work: Path
) -> TrainedPair:
    """Train a saved target, grown, and a saved drafter together, from the last checkpoint in `work` if there is one.

    After the cycles, the weights of both become an average of the last two cycles' results. Then the drafter is trained
    twice more with the target fixed, and becomes an average of these two results.
    """
    torch.manual_seed(PAIR_SEED)
    pair = TrainedPair(add_layers(load_for_training(target_folder), LAYERS), load_for_training(draft_folder))
    for number, cycle in enumerate(PAIR_CYCLES, 1):
        optimizers = make_optimizers(pair.target, cycle.target_rates) + make_optimizers(pair.draft, cycle.draft_rates)
        read = [*documents["train"], *documents[cycle.tests]]
        loss = partial(pair_loss, agreement_weight=cycle.agreement_weight)
        train(pair, optimizers, loss, read, cycle.plan, work / f"pair-{number}.pt")
    _average(pair, work / "pair-2.pt", work / "pair-3.pt", SHARE_OF_LAST)
    pair.target.requires_grad_(False)
    read = [*documents["train"], *(each for split in TEST_SPLITS for each in documents[split])]
    for number, (plan, weight) in enumerate(zip(FOLLOWING_PLANS, BEST_GUESS_WEIGHTS, strict=True), 1):
        loss = partial(pair_loss, agreement_weight=1.0, best_guess_weight=weight)
        optimizers = make_optimizers(pair.draft, FOLLOWING_RATES)
        train(pair, optimizers, loss, read, plan, work / f"following-{number}.pt")
    _average(pair, work / "following-1.pt", work / "following-2.pt", SHARE_OF_LAST_FOLLOWING)
    return pair


def _average(pair: TrainedPair, before: Path, last: Path, share_of_last: float) -> None:
    """Set the weights to a mean of two checkpoints, which does better than the mean of their figures."""
    states = [torch.load(checkpoint, weights_only=True)["model"] for checkpoint in (before, last)]
    pair.load_state_dict({name: torch.lerp(states[0][name], states[1][name], share_of_last) for name in states[0]})
