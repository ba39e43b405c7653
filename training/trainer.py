"""The training loop: phases of steps, a loss, checkpoints to resume from, a progress bar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Self

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from training.windows import Windows
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
        """The factor on the peak rates after this many tokens: it rises, stays, and falls."""
        progress = seen_tokens / self.tokens
        return max(0.0, min(1.0, progress / self.warmup_share, (1.0 - progress) / self.decay_share))


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    make_loss: LossFactory,
    sources: Sequence[Windows],
    plan: TrainingPlan,
    checkpoint: Path,
) -> None:
    """Train a model in place, from its checkpoint if there is one.

    Args:
        model: its weights change.
        optimizers: of its parameters, at their peak rates.
        make_loss: makes the mean loss of a batch.
        sources: where each phase takes its batches from.
        plan: phases, rates and seed.
        checkpoint: file that is written every three minutes and read at the start.
    """
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    first_step = _resume(checkpoint, model, optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    steps = [
        (phase, source, step) for phase, source in zip(plan.phases, sources, strict=True) for step in range(phase.steps)
    ]
    seen_tokens = logged_tokens = sum(phase.window_tokens * phase.rows for phase, _, _ in steps[:first_step])
    saved_s = logged_s = time.monotonic()
    losses: list[float] = []
    console = Console()
    name = checkpoint.stem
    left = track(steps[first_step:], name, console=console, disable=not console.is_terminal)
    with GradientWorkers(model, make_loss, torch.get_num_threads()) as workers:
        for done, (phase, source, phase_step) in enumerate(left, first_step + 1):
            seen_tokens += phase.window_tokens * phase.rows
            factor = plan.rate_factor(seen_tokens)
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
            pieces = list(zip(*(torch.split(part, phase.piece_rows) for part in source.batch(phase_step)), strict=True))
            losses.append(workers.backward(pieces))
            for optimizer in optimizers:
                optimizer.step()
            workers.zero_gradients()
            now_s = time.monotonic()
            if done % LOG_EVERY_STEPS == 0:
                speed = (seen_tokens - logged_tokens) / (now_s - logged_s)
                figures = f"loss {fmean(losses):.3f}, {speed:,.0f} tokens/s, rate x{factor:.2f}"
                console.print(f"{time.strftime('%H:%M:%S')} {name} {done}/{len(steps)}: {figures}")
                logged_s, logged_tokens = now_s, seen_tokens
                losses.clear()
            if now_s - saved_s > CHECKPOINT_EVERY_S or done == len(steps):
                save_checkpoint(checkpoint, model, optimizers, done)
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


def save_checkpoint(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write all that is needed to continue after `step` steps. A kill meanwhile leaves the last checkpoint intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": states, "step": step}, unfinished)
    unfinished.rename(path)
