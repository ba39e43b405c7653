"""Virtual time: what happens next."""

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Events:
    """Actions, ordered by the time at which they are due.

    Attributes:
        now_ns: the time of the running action.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._due: list[tuple[int, bool, int, Action]] = []
        self._number = count()

    def at(self, time_ns: int, action: Action, *, last: bool = False) -> None:
        """Run an action at a time.

        Args:
            last: after all other actions of that time.
        """
        heapq.heappush(self._due, (time_ns, last, next(self._number), action))

    def run(self) -> None:
        """Run all actions in order, including those that they add."""
        while self._due:
            self.now_ns, _, _, action = heapq.heappop(self._due)
            action()
