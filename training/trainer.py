"""The training loop: phases of steps, a loss, checkpoints to resume from, a progress bar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from training.optimizer import Course, rate_factor
from training.workers import GradientWorkers, LossFactory

LOG_EVERY_STEPS = 25
CHECKPOINT_EVERY_S = 180.0


class Source(Protocol):
    """What a phase takes its batches from."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Tensors of one step, the same for the same step."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with windows of one length.

    Attributes:
        window_tokens: length of a window.
        rows: windows to a step.
        piece_rows: windows that one worker takes at a time.
        tokens: seen in the whole phase.
    """

    window_tokens: int
    rows: int
    piece_rows: int
    tokens: int

    @property
    def steps(self) -> int:
        """Steps that see `tokens` tokens."""
        return self.tokens // (self.window_tokens * self.rows)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one model is trained with."""

    phases: tuple[Phase, ...]
    course: Course
    seed: int

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    @property
    def tokens(self) -> int:
        """Tokens seen by all steps together."""
        return sum(phase.steps * phase.window_tokens * phase.rows for phase in self.phases)


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    make_loss: LossFactory,
    sources: Sequence[Source],
    plan: Plan,
    checkpoint: Path,
    name: str,
) -> None:
    """Train a model in place, from its checkpoint if there is one.

    Args:
        model: its weights change.
        optimizers: of its parameters, at their peak rates.
        make_loss: makes the mean loss of a batch.
        sources: where each phase takes its batches from.
        plan: phases, rates and seed.
        checkpoint: file that is written every three minutes and read at the start.
        name: shown in front of the progress.
    """
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    first_step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step = state["step"]
    console = Console()
    steps = [
        (phase, source, step) for phase, source in zip(plan.phases, sources, strict=True) for step in range(phase.steps)
    ]
    saved_at = logged_at = time.monotonic()
    seen_tokens = logged_tokens = 0
    total_loss = 0.0
    workers = GradientWorkers(model, make_loss, torch.get_num_threads())
    with (
        workers,
        Progress(
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        ) as progress,
    ):
        task = progress.add_task(name, total=plan.steps, completed=first_step, figures="")
        for step, (phase, source, phase_step) in enumerate(steps):
            batch_tokens = phase.window_tokens * phase.rows
            seen_tokens += batch_tokens
            if step < first_step:
                continue
            factor = rate_factor(plan.course, seen_tokens / plan.tokens)
            groups = [group for optimizer in optimizers for group in optimizer.param_groups]
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
            pieces = list(zip(*(torch.split(part, phase.piece_rows) for part in source.batch(phase_step)), strict=True))
            if step == first_step:
                workers.start(pieces[0])
            total_loss += workers.backward(pieces)
            for optimizer in optimizers:
                optimizer.step()
            workers.zero_gradients()
            logged_tokens += batch_tokens
            progress.advance(task)
            now = time.monotonic()
            if (step + 1) % LOG_EVERY_STEPS == 0:
                figures = (
                    f"loss {total_loss / LOG_EVERY_STEPS:.3f}, {logged_tokens / (now - logged_at):,.0f} tokens/s, "
                    f"rate x{factor:.2f}"
                )
                progress.update(task, figures=figures)
                if not console.is_terminal:
                    console.print(f"{time.strftime('%H:%M:%S')} {name} {step + 1}/{plan.steps}: {figures}")
                logged_at, logged_tokens, total_loss = now, 0, 0.0
            if now - saved_at > CHECKPOINT_EVERY_S or step + 1 == plan.steps:
                save_checkpoint(checkpoint, model, optimizers, step + 1)
                saved_at = now


def save_checkpoint(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write what is needed to go on after `step` steps, so that a kill in the middle leaves the last one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
        },
        unfinished,
    )
    unfinished.rename(path)
