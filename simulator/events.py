"""Virtual time: what happens next."""

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Events:
    """Actions by the moment at which they are due.

    Attributes:
        now_ns: the moment of the action that runs.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._due: list[tuple[int, bool, int, Action]] = []
        self._number = count()

    def at(self, time_ns: int, action: Action, *, last: bool = False) -> None:
        """Run an action at a moment.

        Args:
            last: after everything else that is due at that moment.
        """
        heapq.heappush(self._due, (time_ns, last, next(self._number), action))

    def run(self) -> None:
        """Run every action, in order, and those that they add, until none is left."""
        while self._due:
            self.now_ns, _, _, action = heapq.heappop(self._due)
            action()
