"""Whether drafting pays for one session among others."""

from sybil_engine.core.moving_mean import MovingMean


class Worth:
    """Sums what a session's drafted tokens bring and cost, and lets it rest while they cost more.

    The currency is tokens: an accepted one brings one, and each judged one costs its row's price. A rest doubles each
    time, and ends with another attempt: the text may have become easier.
    """

    _STRETCH_PASSES = 8
    _FIRST_REST_PASSES = 24
    _LONGEST_REST_PASSES = 384

    def __init__(self) -> None:
        self._gain = MovingMean(0.0, weight=0.4)
        self._passes = self._resting = self._rest = 0
        self._sum = 0.0

    @property
    def rests(self) -> bool:
        """Whether the session had better not draft now."""
        return self._resting > 0

    def saw(self, judged: int, accepted: float, price: float) -> None:
        """Learn from a pass.

        Args:
            judged, accepted: drafted tokens.
            price: what a judged token costs, in tokens.
        """
        if self._resting:
            self._resting -= 1
            return
        self._passes += bool(judged)
        self._sum += accepted - judged * price
        if self._passes < self._STRETCH_PASSES:
            return
        self._gain.add(self._sum / self._passes)
        self._passes, self._sum = 0, 0.0
        if self._gain.value >= 0:
            self._rest = 0
            return
        self._rest = min(max(self._FIRST_REST_PASSES, 2 * self._rest), self._LONGEST_REST_PASSES)
        self._resting = self._rest
