"""Text that ends a completion: found wherever it falls, and never sent."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Released:
    """Text that may be sent, and whether a stop string was completed right after it."""

    text: str
    stopped: bool


class StopStrings:
    """Holds text back for as long as it may turn out to be the start of a stop string, and no longer.

    The stop string that is complete first ends the text; of several that are complete at the same character, the
    longest. Each character costs amortised constant time for each stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """
        Args:
            stops: none of them empty; none at all lets everything pass.
        """
        self._progress = [_Progress(stop) for stop in stops]
        self._held = ""

    def push(self, text: str) -> Released:
        """Add text; nothing may be added after a stop string was complete."""
        if not self._progress:
            return Released(text, stopped=False)
        self._held += text
        for end, character in enumerate(text, start=len(self._held) - len(text) + 1):
            complete = [each.length for each in self._progress if each.push(character)]
            if complete:
                return Released(self._held[: end - max(complete)], stopped=True)
        return Released(self._release(len(self._held) - max(each.matched for each in self._progress)), stopped=False)

    def flush(self) -> str:
        """The text held back: the end has come, and no stop string with it."""
        return self._release(len(self._held))

    def _release(self, end: int) -> str:
        released, self._held = self._held[:end], self._held[end:]
        return released


class _Progress:
    """How much of one stop string the text's end spells.

    Source: Knuth, Morris, Pratt 1977.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._fallback = _fallbacks(stop)
        self.length = len(stop)
        self.matched = 0

    def push(self, character: str) -> bool:
        """Whether this character completes the stop string."""
        self.matched = _advance(self._stop, self._fallback, self.matched, character)
        return self.matched == self.length


def _fallbacks(stop: str) -> list[int]:
    """For each length matched, the next shorter prefix that the same text spells at its end."""
    fallback = [0, 0]
    for character in stop[1:]:
        fallback.append(_advance(stop, fallback, fallback[-1], character))
    return fallback


def _advance(stop: str, fallback: Sequence[int], matched: int, character: str) -> int:
    while matched and (matched == len(stop) or stop[matched] != character):
        matched = fallback[matched]
    return matched + 1 if stop[matched] == character else 0
