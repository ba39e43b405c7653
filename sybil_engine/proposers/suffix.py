"""`suffix`: what followed the longest ends of this text that stood somewhere before, and how often."""

from collections import Counter
from collections.abc import Sequence

from sybil_engine.proposers.proposer import Continuation, Proposer
from sybil_engine.proposers.suffix_index import MOST_AGREED, Match, SuffixIndex

Places = list[tuple[SuffixIndex, Match]]
"""Places of several indexes that agree with one path."""


class Suffix(Proposer):
    """Counts what follows the places that agree longest, in this session's text and perhaps in earlier outputs.

    Where the longest match has one continuation, those of shorter matches are given too: the tree then holds several.

    Args:
        earlier: outputs of earlier sessions; read, never written.

    Source: SuffixDecoding (Oliaro et al. 2024), with counts as weights.
    """

    cost_ns = 15_000

    _MOST_TOKENS = 3

    def __init__(self, *earlier: SuffixIndex) -> None:
        self._text = SuffixIndex()
        self._indexes = (self._text, *earlier)
        self._end: list[int] = []
        self._known: dict[tuple[int, ...], Places] = {}

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        self._text.extend(token_ids)
        self._end = [*self._end, *token_ids[-MOST_AGREED:]][-MOST_AGREED:]
        self._known.clear()

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """See `Proposer.continuations`."""
        places = self._places(path)
        if not places:
            return ()
        longest = max(match.agreed for _, match in places)
        best = Counter(index[match.place] for index, match in places if match.agreed == longest)
        total = best.total()
        given = [
            Continuation(
                token_id, _estimate(longest) * count / total, (_step(longest), _share(count, total), total > 1)
            )
            for token_id, count in best.most_common(self._MOST_TOKENS)
        ]
        others = Counter(index[match.place] for index, match in places if match.agreed < longest)
        for token_id, count in others.most_common(self._MOST_TOKENS):
            if token_id not in best:
                given.append(Continuation(token_id, 0.1, (_step(longest), "shorter", min(count, 3))))
        return given

    def _places(self, path: tuple[int, ...]) -> Places:
        """Where the text goes on as it did after its end and this path."""
        known = self._known.get(path)
        if known is None:
            known = self._went_on(path) if path else []
            if not known:
                end = [*self._end, *path][-MOST_AGREED:]
                known = [(index, match) for index in self._indexes for match in index.matches(end)]
            self._known[path] = known
        return known

    def _went_on(self, path: tuple[int, ...]) -> Places:
        """The places of the path before its last token at which this token follows."""
        last = path[-1]
        return [
            (index, Match(match.place + 1, min(match.agreed + 1, MOST_AGREED)))
            for index, match in self._known.get(path[:-1], ())
            if index[match.place] == last and match.place + 1 < index.end and index[match.place + 1] >= 0
        ]


def _step(agreed: int) -> int:
    """Matches of about the same length, as one number."""
    return agreed if agreed <= 4 else 4 + (agreed - 1) // 4


def _share(count: int, total: int) -> int:
    """A share in quarters."""
    return 4 * count // total


def _estimate(agreed: int) -> float:
    """How often the next token agrees where so many did."""
    return min(0.9, 0.25 + 0.08 * agreed)
