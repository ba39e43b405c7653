"""How many sessions share a verifier's passes, and what that makes of a row's price."""

import math
from dataclasses import dataclass

from sybil_engine.core.moving_mean import MovingMean


def sessions_at(level: int) -> int:
    """About how many sessions share the passes at a level of load."""
    return 1 << level


@dataclass(frozen=True, slots=True)
class SharedPass:
    """What a pass did for all sessions together.

    Attributes:
        sessions: that could take part: whose prompts are in the cache.
        served: that did take part.
        tokens: committed.
        elapsed_ns: since the pass before it ended, or since the first of those served began to wait, if that is later;
            without the time that prompts took.
    """

    sessions: int
    served: int
    tokens: int
    elapsed_ns: int


class Load:
    """How full a verifier's passes are. A level is a power of two: level 3 is about 8 sessions.

    Attributes:
        level: changes only when the mean is clearly nearer to another one, so that it does not flap.
    """

    _WEIGHT = 0.1
    # In levels. Half a level is the middle between two.
    _MARGIN = 0.15

    def __init__(self) -> None:
        self.level = 0
        self._sessions = MovingMean(1.0, self._WEIGHT)
        self._tokens = MovingMean(0.0, self._WEIGHT)
        self._elapsed_ns = MovingMean(0.0, self._WEIGHT)

    def saw(self, shared: SharedPass) -> None:
        """Learn from a pass."""
        self._sessions.add(max(1, shared.sessions))
        self._tokens.add(shared.tokens)
        self._elapsed_ns.add(shared.elapsed_ns)
        exact = math.log2(self._sessions.value)
        if abs(exact - self.level) > 0.5 + self._MARGIN:
            self.level = round(exact)

    @property
    def company(self) -> bool:
        """Whether several sessions share the passes."""
        return self.level > 0

    @property
    def sessions(self) -> float:
        """How many sessions share the passes, on average."""
        return self._sessions.value

    @property
    def about_sessions(self) -> int:
        """The same as a power of two, which seldom changes."""
        return sessions_at(self.level)

    @property
    def tokens_per_ns(self) -> float:
        """Of all sessions together."""
        return self._tokens.value / self._elapsed_ns.value if self._elapsed_ns.value else 0.0

    def price(self, row_ns: float) -> float:
        """What a row costs, in tokens: what all sessions together would commit in the time that it adds to a pass.

        A drafted token is worth its row if its chance of being committed is higher.

        Args:
            row_ns: the time that it adds.
        """
        return row_ns * self.tokens_per_ns
