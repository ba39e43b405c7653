"""`suffix`: what followed the longest ends of this text that stood somewhere before, and how often."""

from collections.abc import Sequence
from functools import cache

from sybil_engine.proposers.proposer import Continuation, Proposer
from sybil_engine.proposers.suffix_index import END_OF_TEXT, MOST_AGREED, AgreedPlace, SuffixIndex

# First estimates, from Python sources (`python -m benchmarks.proposers`; docs/benchmarks.md).
# By length of the match: how often a single place was right.
_ALONE = (0.26, 0.46, 0.54, 0.61, 0.69, 0.78, 0.86)
_SPLIT = 0.7
# By count: how often the continuation of a shorter match was.
_SHORTER = (0.08, 0.11, 0.15)

Places = list[tuple[SuffixIndex, AgreedPlace]]
"""Places of several indexes that agree with one path."""


class Suffix(Proposer):
    """Counts what follows the places that agree longest, in this session's text and perhaps in earlier outputs.

    Where the longest match has one continuation, those of shorter matches are given too: the tree then holds several.

    Args:
        earlier: outputs of earlier sessions; read, never written.

    Source: SuffixDecoding (Oliaro et al. 2024), with counts as weights.
    """

    cost_ns = 15_000

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
        best: dict[int, int] = {}
        others: dict[int, int] = {}
        for index, match in places:
            counts = best if match.agreed == longest else others
            token_id = index[match.place]
            counts[token_id] = counts.get(token_id, 0) + 1
        total, step = sum(best.values()), _step(longest)
        given = [Continuation(token_id, *_estimate(step, count, total)) for token_id, count in best.items()]
        return given + [
            Continuation(token_id, _SHORTER[min(count, 3) - 1], (step, "shorter", min(count, 3)))
            for token_id, count in others.items()
            if token_id not in best
        ]

    def _places(self, path: tuple[int, ...]) -> Places:
        """Where the text goes on as it did after its end and this path."""
        known = self._known.get(path)
        if known is not None:
            # Another session may have ended since, and its output may have taken the room of these.
            known = [(index, match) for index, match in known if match.place >= index.first]
        else:
            known = self._went_on(path) if path else []
            if not known:
                end = [*self._end, *path][-MOST_AGREED:] if path else self._end
                known = [(index, match) for index in self._indexes for match in index.matches(end)]
            self._known[path] = known
        return known

    def _went_on(self, path: tuple[int, ...]) -> Places:
        """The places of the path before its last token at which this token follows."""
        last = path[-1]
        return [
            (index, AgreedPlace(match.place + 1, min(match.agreed + 1, MOST_AGREED)))
            for index, match in self._known.get(path[:-1], ())
            if match.place >= index.first
            and index[match.place] == last
            and match.place + 1 < index.end
            and index[match.place + 1] != END_OF_TEXT
        ]


def _step(agreed: int) -> int:
    """Matches of about the same length, as one number from 1."""
    return agreed if agreed <= 4 else 4 + (agreed - 1) // 4


def _some(count: int) -> int:
    """Counts of about the same size, as one number."""
    return min(count.bit_length(), 3)


@cache
def _estimate(step: int, count: int, total: int) -> tuple[float, tuple[int, int, int]]:
    """What speaks for a token that stands at `count` of the `total` places that agree as long.

    Returns:
        P(the target draws it), a first estimate; and its evidence: length of the match, count, share.
    """
    evidence = (step, _some(total), 4 * count // total)
    if count < total:
        # Where the text went on differently before, how long the match is says little.
        return _SPLIT * (count / total) ** 1.5, evidence
    odds = _ALONE[step - 1] / (1 - _ALONE[step - 1]) * count**1.3
    return odds / (1 + odds), evidence
