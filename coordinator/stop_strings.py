"""Stop strings: text that ends a completion and is never sent, however tokens split it."""

from collections.abc import Sequence


class StopStrings:
    """Holds back text that may be the start of a stop string.

    The first stop string that is complete ends the text; of several that are complete at the same character, the
    longest does.

    Attributes:
        stopped: whether a stop string was completed.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """
        Args:
            stops: none of them empty. If there are none, all text passes.
        """
        self.stopped = False
        self._stops = stops
        self._most_held = max(map(len, stops), default=1) - 1
        self._held = ""

    def push(self, text: str) -> str:
        """Add text, none after a stop string was complete. Returns the text that may be sent now."""
        self._held += text
        complete = [(self._held.index(stop) + len(stop), len(stop)) for stop in self._stops if stop in self._held]
        if complete:
            end, length = min(complete, key=lambda found: (found[0], -found[1]))
            self.stopped = True
            return self._held[: end - length]
        return self._release(self._first_held())

    def flush(self) -> str:
        """Release the text held back: the completion has ended without a stop string."""
        return self._release(len(self._held))

    def _first_held(self) -> int:
        """Where the longest suffix begins that is the start of a stop string."""
        end = len(self._held)
        starts = range(max(0, end - self._most_held), end)
        return next(
            (start for start in starts if any(stop.startswith(self._held[start:]) for stop in self._stops)), end
        )

    def _release(self, end: int) -> str:
        released, self._held = self._held[:end], self._held[end:]
        return released
