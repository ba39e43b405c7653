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
    """Shows what is being waited for, if that takes longer than a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._wait: _Spinner | _Lines | None = None

    def say(self, line: str) -> None:
        """Report that a step begins or is done. May be called from any thread, and repeatedly for the same step."""
        step = _SECONDS_WAITED.sub("", line)
        if self._wait is not None:
            self._wait.say(step)
        else:
            _print(self._console, step)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show what is being waited for until the block is left; `say` may add details.

        Inside another `waiting` block it shows nothing: the whole wait is shown already.
        """
        if self._wait is not None:
            yield
            return
        step = f"waiting for {what}"
        self._wait = _Spinner(self._console, step) if self._console.is_terminal else _Lines(self._console, step)
        try:
            yield
        finally:
            self._wait.stop()
            self._wait = None


class _Spinner:
    """One live line: what is waited for, and for how long."""

    def __init__(self, console: Console, step: str) -> None:
        self._live = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Rarely, so as not to slow down what is being waited for.
            refresh_per_second=4,
        )
        self._task = self._live.add_task(step, total=None)
        self._live.start()

    def say(self, step: str) -> None:
        self._live.update(self._task, description=step)

    def stop(self) -> None:
        self._live.stop()


class _Lines:
    """One line for each step, or after a second without any, and then one every ten seconds."""

    def __init__(self, console: Console, step: str) -> None:
        self._console = console
        self._step = step
        self._started_s = time.monotonic()
        self._due_s = self._started_s + _PATIENCE_S
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._remind, name="sybil-progress", daemon=True)
        self._thread.start()

    def say(self, step: str) -> None:
        if step != self._step:
            self._step = step
            self._due_s = time.monotonic() + _REPEAT_S
            _print(self._console, step)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _remind(self) -> None:
        while not self._stopped.wait(max(0.0, self._due_s - time.monotonic())):
            now_s = time.monotonic()
            if now_s >= self._due_s:
                _print(self._console, f"{self._step} ({now_s - self._started_s:.0f} s)")
                self._due_s = now_s + _REPEAT_S


def _print(console: Console, line: str) -> None:
    console.print(Text(f"sybil: {line}"), soft_wrap=True)
