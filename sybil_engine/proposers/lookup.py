"""`lookup`: what followed the last few tokens when they last stood in this session's text."""

from collections.abc import Sequence

from sybil_engine.proposers.proposer import Continuation, Proposer

_NONE = (0, 0)
"""No place, and no token that agrees."""


class Lookup(Proposer):
    """N-gram lookup in prompt and output: the latest place of the longest match.

    Source: prompt lookup decoding (Saxena 2023).
    """

    cost_ns = 5_000

    _LONGEST = 4
    # How often the next token agreed after as many did, in Python sources (`python -m benchmarks.proposers`).
    _ESTIMATES = (0.24, 0.45, 0.54, 0.61, 0.66, 0.7, 0.73, 0.82)

    def __init__(self) -> None:
        self._text: list[int] = []
        # By the last tokens: the place of the one after them.
        self._latest: dict[tuple[int, ...], int] = {}
        # By path: the place where it goes on, and how many tokens agree.
        self._known: dict[tuple[int, ...], tuple[int, int]] = {}

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        text = self._text
        match = self._known.get((), _NONE)
        for token_id in token_ids:
            for length in range(1, min(self._LONGEST, len(text)) + 1):
                self._latest[tuple(text[-length:])] = len(text)
            place, agreed = match
            goes_on = agreed and text[place] == token_id
            text.append(token_id)
            # Searched at each token, so that a match is as long however the tokens are cut into commits.
            match = (place + 1, agreed + 1) if goes_on else self._longest(())
        self._known = {(): match}

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """See `Proposer.continuations`."""
        if path not in self._known:
            self._known[path] = self._along(path)
        place, agreed = self._known[path]
        if not agreed:
            return ()
        step = min(agreed, len(self._ESTIMATES))
        return (Continuation(self._text[place], self._ESTIMATES[step - 1], step),)

    def _along(self, path: tuple[int, ...]) -> tuple[int, int]:
        """The place at which a path goes on, and how many tokens agree; 0: there is none."""
        place, agreed = self._known.get(path[:-1], _NONE)
        if agreed and self._text[place] == path[-1] and place + 1 < len(self._text):
            return place + 1, agreed + 1
        return self._longest(path)

    def _longest(self, path: tuple[int, ...]) -> tuple[int, int]:
        """The latest place of the longest match of the text's end and a path."""
        end = (*self._text[-self._LONGEST :], *path)[-self._LONGEST :]
        for start in range(len(end)):
            if (latest := self._latest.get(end[start:])) is not None:
                return latest, len(end) - start
        return _NONE
