"""The progress of a run, on stderr: a bar on a terminal, a line for each prompt elsewhere."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from benchmarks.measurement import Measurement, median_speed

_REPEAT_S = 15.0


class BenchProgress:
    """Shows what is being done, and the speeds so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Rarely, so as not to disturb the measurement.
            refresh_per_second=1,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._said_s = float("-inf")
        self._step = ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._bar:
            yield

    def say(self, step: str) -> None:
        """Show what is being waited for."""
        self._bar.update(self._task, description=step)
        what, now_s = step.split(" (")[0], time.monotonic()
        if what != self._step or now_s - self._said_s > _REPEAT_S:
            self._step, self._said_s = what, now_s
            self._print(step)

    def begin(self, completions: int) -> None:
        """Announce this many completions."""
        self._bar.reset(self._task, total=completions)

    def advance(self, step: str) -> None:
        """Count one completion."""
        self._bar.update(self._task, advance=1, description=step)

    def finish_prompt(self, step: str, measured: Mapping[str, Sequence[Measurement]]) -> None:
        """Show the speeds after every arm has completed a prompt."""
        speeds = ", ".join(f"{name} {median_speed(each):.1f}" for name, each in measured.items())
        self._print(f"{step}; tokens/s so far: {speeds}")

    def _print(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(Text(f"sybil: {line}"), soft_wrap=True)
