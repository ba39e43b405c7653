"""The training loop: phases of steps, a loss, checkpoints to resume from, a progress bar."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Self

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from training.windows import Documents, Windows
from training.workers import GradientWorkers, LossFactory

LOG_EVERY_STEPS = 25
CHECKPOINT_EVERY_S = 180.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with windows of one length.

    Attributes:
        window_tokens: length of a window.
        rows: windows in a step.
        piece_rows: windows that one worker takes at a time.
        steps: of the whole phase.
    """

    window_tokens: int
    rows: int
    piece_rows: int
    steps: int


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The training plan of one model.

    Attributes:
        warmup_share: part of all tokens over which the rates rise.
        decay_share: part of all tokens, at the end, over which the rates fall to 0.
    """

    phases: tuple[Phase, ...]
    warmup_share: float
    decay_share: float
    seed: int

    @classmethod
    def of_one_phase(cls, steps: int, warmup_share: float, seed: int) -> Self:
        """A rise of the rates and a long fall, over steps of eight windows of 1,024 tokens."""
        return cls((Phase(1024, rows=8, piece_rows=2, steps=steps),), warmup_share, 0.9, seed)

    @property
    def tokens(self) -> int:
        """Tokens seen by all steps together."""
        return sum(phase.steps * phase.window_tokens * phase.rows for phase in self.phases)

    def rate_factor(self, seen_tokens: int) -> float:
        """Warm up, stay, decay: the factor on the peak rates after this much of the text."""
        progress = seen_tokens / self.tokens
        return max(0.0, min(1.0, progress / self.warmup_share, (1.0 - progress) / self.decay_share))


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    make_loss: LossFactory,
    documents: Documents,
    plan: TrainingPlan,
    checkpoint: Path,
) -> None:
    """Train a model in place, from its checkpoint if there is one.

    Args:
        model: its weights change.
        optimizers: of its parameters, at their peak rates.
        make_loss: makes the mean loss of a batch.
        documents: token ids of each; every phase cuts its own windows from them.
        plan: phases, rates and seed.
        checkpoint: file that is written every three minutes and read at the start.
    """
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    first_step = _resume(checkpoint, model, optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    steps = [
        (phase, windows, step)
        for index, phase in enumerate(plan.phases)
        for windows in [Windows(documents, phase.window_tokens, phase.rows, plan.seed + index)]
        for step in range(phase.steps)
    ]
    seen_tokens = sum(phase.window_tokens * phase.rows for phase, _, _ in steps[:first_step])
    saved_s = logged_s = time.monotonic()
    losses: list[float] = []
    console, name = Console(), checkpoint.stem
    left = track(steps[first_step:], name, console=console, disable=not console.is_terminal)
    with closing(GradientWorkers(model, make_loss, torch.get_num_threads())) as workers:
        for done, (phase, windows, phase_step) in enumerate(left, first_step + 1):
            step_tokens = phase.window_tokens * phase.rows
            seen_tokens += step_tokens
            factor = plan.rate_factor(seen_tokens)
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
            parts = (part.split(phase.piece_rows) for part in windows.batch(phase_step))
            losses.append(workers.backward(list(zip(*parts, strict=True))))
            for optimizer in optimizers:
                optimizer.step()
            workers.zero_gradients()
            now_s = time.monotonic()
            if done % LOG_EVERY_STEPS == 0:
                speed = len(losses) * step_tokens / (now_s - logged_s)
                figures = f"loss {fmean(losses):.3f}, {speed:,.0f} tokens/s, rate x{factor:.2f}"
                console.log(f"{name} {done}/{len(steps)}: {figures}")
                logged_s = now_s
                losses.clear()
            if now_s - saved_s > CHECKPOINT_EVERY_S or done == len(steps):
                _save(checkpoint, model, optimizers, done)
                saved_s = now_s


def _resume(checkpoint: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Load a checkpoint, if there is one; returns how many steps it has seen."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _save(checkpoint: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write what is needed to go on after `step` steps, so that a kill in the middle leaves the last one whole."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    unfinished = checkpoint.with_suffix(".unfinished")
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": states, "step": step}, unfinished)
    unfinished.rename(checkpoint)
