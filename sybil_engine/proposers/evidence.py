"""How likely a continuation is right, learned from how often those of the same evidence were."""

from collections.abc import Hashable


class EvidenceTable:
    """Counts, for each evidence, how many continuations the target then drew; shared by all sessions of a service.

    A proposer's own estimate is the prior. Evidence that has not been met for long makes room when there is too much
    of it, so a proposer that invents new evidence each time costs no memory.
    """

    _PRIOR_COUNTS_FOR = 8.0
    # Old counts fade, because texts change.
    _MOST_COUNTS = 1000.0
    _MOST_KINDS = 4096
    _LEAST, _MOST = 1e-4, 0.999

    def __init__(self) -> None:
        # By evidence: seen and right. In the order in which they were last met.
        self._counts: dict[Hashable, tuple[float, float]] = {}

    def chance(self, evidence: Hashable, estimate: float) -> float:
        """P(target draws a continuation of this evidence), where its proposer estimates this chance."""
        seen, right = self._counts.get(evidence, (0.0, 0.0))
        chance = (self._PRIOR_COUNTS_FOR * estimate + right) / (self._PRIOR_COUNTS_FOR + seen)
        return min(max(chance, self._LEAST), self._MOST)

    def saw(self, evidence: Hashable, *, right: bool) -> None:
        """Learn whether the target drew a continuation of this evidence."""
        seen, hits = self._counts.pop(evidence, (0.0, 0.0))
        if seen >= self._MOST_COUNTS:
            seen, hits = seen / 2, hits / 2
        self._counts[evidence] = seen + 1, hits + right
        if len(self._counts) > self._MOST_KINDS:
            del self._counts[next(iter(self._counts))]
