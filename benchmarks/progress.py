"""How far a run is, on stderr: a bar on a terminal, a line for each prompt elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


class BenchProgress:
    """Says what is being done."""

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
        """A step begins, or goes on: then only what stands in brackets changes, and no line is printed."""
        self._bar.update(self._task, description=step)
        what = step.split(" (")[0]
        if what != self._said and not self._console.is_terminal:
            self._console.print(Text(f"sybil: {step}"), soft_wrap=True)
        self._said = what

    def begin(self, completions: int) -> None:
        """This many completions follow."""
        self._bar.reset(self._task, total=completions)

    def advance(self, step: str) -> None:
        """One completion is done."""
        self._bar.update(self._task, advance=1, description=step)
