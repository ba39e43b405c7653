"""Stop strings: text that ends a completion and is never sent, however tokens split it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Released:
    """Text that may be sent, and whether a stop string was completed right after it."""

    text: str
    stopped: bool


class StopStrings:
    """Holds back text that may be the start of a stop string.

    The stop string that is completed first ends the text; if one character completes several, the longest counts.
    Each character costs amortised constant time for each stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """
        Args:
            stops: none of them empty. If there are none, all text passes.
        """
        self._matchers = [_Matcher(stop) for stop in stops]
        self._held = ""

    def push(self, text: str) -> Released:
        """Add text. Don't call it after a stop string is complete."""
        if not self._matchers:
            return Released(text, stopped=False)
        self._held += text
        for end, character in enumerate(text, start=len(self._held) - len(text) + 1):
            complete = [each.length for each in self._matchers if each.push(character)]
            if complete:
                return Released(self._held[: end - max(complete)], stopped=True)
        return Released(self._release(len(self._held) - max(each.matched for each in self._matchers)), stopped=False)

    def flush(self) -> str:
        """Release the text held back: the completion has ended without a stop string."""
        return self._release(len(self._held))

    def _release(self, end: int) -> str:
        released, self._held = self._held[:end], self._held[end:]
        return released


class _Matcher:
    """Tracks the longest prefix of one stop string that the text ends with.

    Source: Knuth, Morris, Pratt 1977.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._fallback = _fallbacks(stop)
        self.length = len(stop)
        self.matched = 0

    def push(self, character: str) -> bool:
        """Add a character; returns whether it completes the stop string."""
        self.matched = _advance(self._stop, self._fallback, self.matched, character)
        return self.matched == self.length


def _fallbacks(stop: str) -> list[int]:
    """For each matched length, the length of the next shorter prefix that the text also ends with."""
    fallback = [0, 0]
    for character in stop[1:]:
        fallback.append(_advance(stop, fallback, fallback[-1], character))
    return fallback


def _advance(stop: str, fallback: Sequence[int], matched: int, character: str) -> int:
    while matched and (matched == len(stop) or stop[matched] != character):
        matched = fallback[matched]
    return matched + 1 if stop[matched] == character else 0
