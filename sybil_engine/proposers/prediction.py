"""`prediction`: the client's own guess of the output, followed as long as it agrees, and found again where it does not.

Made for edits: most of the output is the file as it was. After tokens that were changed, put in or left out, the output
goes on from the nearest place where its last tokens stand in the prediction.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.proposer import Continuation, Proposer


@dataclass(frozen=True, slots=True)
class Pointer:
    """A place in the prediction at which the output may go on.

    Attributes:
        place: of the token that comes next.
        agreed: how many tokens have agreed in a row; 0: a guess, right after a divergence.
    """

    place: int
    agreed: int


Pointers = tuple[Pointer, ...]
"""The likeliest first."""


class Prediction(Proposer):
    """Follows a prediction of one session's output."""

    cost_ns = 5_000

    _LONGEST_ANCHOR = 6
    # A single token is too common to look far for.
    _NEAR_TOKENS = 48
    _MOST_POINTERS = 3
    # By tokens that agreed: in Python sources with a few changed lines (`python -m benchmarks.proposers`).
    _ESTIMATES = (0.1, 0.28, 0.75, 0.9, 0.97)

    def __init__(self, opening: SessionOpen) -> None:
        self._prediction = opening.prediction
        self._prompt_tokens = opening.prompt_tokens
        self._seen_tokens = 0
        self._output: list[int] = []
        # By token: its places, in order.
        self._places: dict[int, list[int]] = {}
        for place, token_id in enumerate(self._prediction):
            self._places.setdefault(token_id, []).append(place)
        self._pointers: Pointers = (Pointer(0, 2),) if self._prediction else ()
        self._known: dict[tuple[int, ...], Pointers] = {}

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        for token_id in token_ids[max(0, self._prompt_tokens - self._seen_tokens) :]:
            self._output.append(token_id)
            self._pointers = self._after(self._pointers, self._output, token_id)
        self._seen_tokens += len(token_ids)
        self._known = {(): self._pointers}

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """See `Proposer.continuations`."""
        given: dict[int, Continuation] = {}
        for rank, pointer in enumerate(self._along(path)):
            token_id = self._prediction[pointer.place]
            step = min(pointer.agreed, len(self._ESTIMATES) - 1)
            longer = min(pointer.agreed // 8, 4)
            given.setdefault(token_id, Continuation(token_id, self._ESTIMATES[step] / (1 + rank), (step, longer, rank)))
        return list(given.values())

    def _along(self, path: tuple[int, ...]) -> Pointers:
        """The pointers after a path."""
        known = self._known.get(path)
        if known is None:
            text = [*self._output[-self._LONGEST_ANCHOR :], *path]
            known = self._known[path] = self._after(self._along(path[:-1]), text, path[-1])
        return known

    def _after(self, pointers: Pointers, text: Sequence[int], token_id: int) -> Pointers:
        """The pointers after another token of a text, which ends in it."""
        agreeing = [
            Pointer(each.place + 1, each.agreed + 1) for each in pointers if self._prediction[each.place] == token_id
        ]
        if agreeing:
            return self._inside(agreeing)
        if not pointers:
            return self._inside(self._anchors(text, 0))
        # The token may have been put in, or have replaced the one that was predicted.
        place = pointers[0].place
        return self._inside([*self._anchors(text, place), Pointer(place, 0), Pointer(place + 1, 0)])

    def _anchors(self, text: Sequence[int], near: int) -> list[Pointer]:
        """Where the end of a text stands in the prediction: the longest match, and of these the nearest place."""
        places = self._places.get(text[-1], [])
        middle = bisect_left(places, near)
        best: Pointer | None = None
        for place in (*places[middle : middle + 4], *reversed(places[max(0, middle - 2) : middle])):
            agreed = self._agreed(text, place)
            if (agreed > 1 or abs(place - near) <= self._NEAR_TOKENS) and (best is None or agreed > best.agreed):
                best = Pointer(place + 1, agreed)
        return [best] if best else []

    def _agreed(self, text: Sequence[int], place: int) -> int:
        """How many last tokens of a text agree with the prediction up to and including a place."""
        most = min(len(text), place + 1, self._LONGEST_ANCHOR)
        for agreed in range(most):
            if self._prediction[place - agreed] != text[-1 - agreed]:
                return agreed
        return most

    def _inside(self, pointers: Sequence[Pointer]) -> Pointers:
        """Those that point at a token, each place once."""
        kept: dict[int, Pointer] = {}
        for pointer in pointers:
            if 0 <= pointer.place < len(self._prediction):
                kept.setdefault(pointer.place, pointer)
        return tuple(kept.values())[: self._MOST_POINTERS]
