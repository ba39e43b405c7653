"""The progress of a run, on stderr: a bar on a terminal, a line for each prompt elsewhere."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


class BenchProgress:
    """Shows what is being done, and the speeds so far; on a terminal while the context of `bar` lasts."""

    def __init__(self, console: Console) -> None:
        text = TextColumn("{task.description}", markup=False)
        self.bar = Progress(
            *(SpinnerColumn(), text, BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()),
            console=console,
            transient=True,
            # The cores are busy enough with what is measured.
            refresh_per_second=1,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("starting", total=None)
        self._said = ""

    def say(self, step: str) -> None:
        """Show what is being waited for."""
        self.bar.update(self._task, description=step)
        what = step.split(" (")[0]
        if what != self._said and not self.bar.console.is_terminal:
            self.bar.console.print(Text(f"sybil: {step}"), soft_wrap=True)
        self._said = what

    def begin(self, completions: int) -> None:
        """Announce this many completions."""
        self.bar.reset(self._task, total=completions)

    def advance(self, step: str) -> None:
        """Count one completion."""
        self.bar.update(self._task, advance=1, description=step)
