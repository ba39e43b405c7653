"""An emulated link: messages are delivered a set time later, in order."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from sybil_engine.core.timing import sleep_until


class DelayLine:
    """Makes calls after a delay, on a thread of its own: an event loop's timers are only accurate to a millisecond."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._held: SimpleQueue[tuple[float, Callable[[Any], None], Any]] = SimpleQueue()
        threading.Thread(target=self._run, name="delay-line", daemon=True).start()

    def delayed(self, deliver: Callable[[Any], None]) -> Callable[[Any], None]:
        """A function that passes its message to `deliver` after the delay."""
        return lambda message: self._held.put((time.monotonic() + self._delay_s, deliver, message))

    def _run(self) -> None:
        while True:
            due, deliver, message = self._held.get()
            sleep_until(due)
            deliver(message)
