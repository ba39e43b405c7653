"""Virtual time: what happens next."""

from collections.abc import Callable
from sched import Event, scheduler


class Events(scheduler):
    """Actions by the moment at which they are due; `run` runs them, and those that they add, until none is left.

    Attributes:
        now_ns: the time of the running action.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        super().__init__(lambda: self.now_ns, self._pass_time)

    def _pass_time(self, duration_ns: float) -> None:
        self.now_ns += int(duration_ns)

    def at(self, time_ns: int, action: Callable[[], None], *, last: bool = False) -> Event:
        """Run an action at a moment.

        Args:
            last: after all other actions of that time.

        Returns:
            What `cancel` takes.
        """
        return self.enterabs(time_ns, last, action)
