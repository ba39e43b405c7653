"""What a command is waiting for, on stderr: a spinner on a terminal, plain lines elsewhere."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

# Repeated reports of one wait differ only in the seconds waited so far; these do not make a new step.
_SECONDS_WAITED = re.compile(r"( \(\d+ s\))+$")
_PATIENCE_S = 1.0
_REPEAT_S = 10.0


class Progress:
    """Says what is being waited for: live on a terminal; elsewhere, line by line if it takes longer than a second."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._step: str | None = None
        self._due_s = 0.0
        self._live = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            # The processor is busy enough with what is waited for.
            refresh_per_second=4,
        )
        self._task = self._live.add_task("", total=None)

    def say(self, line: str) -> None:
        """Report that a step begins or is done. May be called from any thread, and repeatedly for the same step."""
        step = _SECONDS_WAITED.sub("", line)
        if step == self._step:
            return
        waiting = self._step is not None
        if waiting:
            self._step, self._due_s = step, time.monotonic() + _REPEAT_S
        if waiting and self._console.is_terminal:
            self._live.update(self._task, description=step)
        else:
            self._print(step)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show what is being waited for until the block is left; `say` may add details.

        Inside another `waiting` block it shows nothing: the whole wait is shown already.
        """
        if self._step is not None:
            yield
            return
        self._step = f"waiting for {what}"
        self._live.reset(self._task, description=self._step)
        show = self._live if self._console.is_terminal else self._reminders()
        try:
            with show:
                yield
        finally:
            self._step = None

    @contextmanager
    def _reminders(self) -> Iterator[None]:
        """A line after a second without a step, and then one every ten seconds."""
        stopped = threading.Event()
        thread = threading.Thread(target=self._remind, args=(stopped,), name="sybil-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def _remind(self, stopped: threading.Event) -> None:
        started_s = time.monotonic()
        self._due_s = started_s + _PATIENCE_S
        while not stopped.wait(max(0.0, self._due_s - time.monotonic())):
            now_s = time.monotonic()
            if now_s >= self._due_s:
                self._print(f"{self._step} ({now_s - started_s:.0f} s)")
                self._due_s = now_s + _REPEAT_S

    def _print(self, line: str) -> None:
        self._console.print(Text(f"sybil: {line}"), soft_wrap=True)
