"""`lookup`: what followed the last few tokens when they stood in this session's text before."""

from collections import deque
from collections.abc import Sequence

from sybil_engine.proposers.proposer import Continuation, Proposer


class Lookup(Proposer):
    """N-gram lookup in prompt and output: the latest places of the longest match.

    Source: prompt lookup decoding (Saxena 2023).
    """

    cost_ns = 5_000

    _LEAST, _MOST = 1, 4
    _PLACES = 4

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        # By the last n tokens: where the next one stands, latest last.
        self._places: dict[tuple[int, ...], deque[int]] = {}
        # By path: the places where it goes on, and the length of the match.
        self._known: dict[tuple[int, ...], tuple[Sequence[int], int]] = {}

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        text = self._token_ids
        for token_id in token_ids:
            for length in range(self._LEAST, min(self._MOST, len(text)) + 1):
                key = tuple(text[-length:])
                self._places.setdefault(key, deque(maxlen=self._PLACES)).append(len(text))
            text.append(token_id)
        self._known.clear()

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """See `Proposer.continuations`."""
        places, length = self._match(path)
        if not places:
            return ()
        counts: dict[int, int] = {}
        for place in places:
            token_id = self._token_ids[place]
            counts[token_id] = counts.get(token_id, 0) + 1
        total = len(places)
        return [
            Continuation(token_id, _estimate(length) * count / total, (min(length, 12), total > 1, 4 * count // total))
            for token_id, count in counts.items()
        ]

    def _match(self, path: tuple[int, ...]) -> tuple[Sequence[int], int]:
        """Where the text goes on as it did after its last tokens and this path; and how many tokens agree."""
        if path not in self._known:
            self._known[path] = self._extended(path) if path else self._longest(path)
            if not self._known[path][0]:
                self._known[path] = self._longest(path)
        return self._known[path]

    def _extended(self, path: tuple[int, ...]) -> tuple[Sequence[int], int]:
        places, length = self._match(path[:-1])
        text, last = self._token_ids, path[-1]
        return [place + 1 for place in places if text[place] == last and place + 1 < len(text)], length + 1

    def _longest(self, path: tuple[int, ...]) -> tuple[Sequence[int], int]:
        end = (*self._token_ids[-self._MOST :], *path)[-self._MOST :]
        for length in range(len(end), self._LEAST - 1, -1):
            if places := self._places.get(end[-length:]):
                return places, length
        return (), 0


def _estimate(length: int) -> float:
    """How often the next token agrees after so many agreed."""
    return (0.1, 0.2, 0.35, 0.5)[min(length, 4) - 1] if length < 5 else 0.8
