"""The progress of a run, on stderr: a bar on a terminal, a line for each prompt elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


class BenchProgress:
    """Shows what is being done, and the speeds so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
        text = TextColumn("{task.description}", markup=False)
        # The cores are busy enough with what is measured.
        self._bar = Progress(SpinnerColumn(), text, *columns, console=console, transient=True, refresh_per_second=1)
        self._task = self._bar.add_task("starting", total=None)
        self._said = ""

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
        what = step.split(" (")[0]
        if what != self._said and not self._console.is_terminal:
            self._console.print(Text(f"sybil: {step}"), soft_wrap=True)
        self._said = what

    def begin(self, completions: int) -> None:
        """Announce this many completions."""
        self._bar.reset(self._task, total=completions)

    def advance(self, step: str) -> None:
        """Count one completion."""
        self._bar.update(self._task, advance=1, description=step)
