"""Which requests start, which wait, and which are refused."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sybil_engine.core.errors import Exhausted


class Admission:
    """Lets as many requests run as verifiers have slots; a bounded number of others wait, first come, first served."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._slots = 0
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Requests that hold a place."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    def resize(self, slots: int) -> None:
        """Set how many requests may run; those that are running continue."""
        self._slots = slots
        self._admit()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place while the block runs; wait if none is free.

        Raises:
            Exhausted: too many requests are waiting already.
        """
        if self._running < self._slots and not self._waiting:
            self._running += 1
        else:
            await self._wait()
        try:
            yield
        finally:
            self._running -= 1
            self._admit()

    async def _wait(self) -> None:
        if self.waiting >= self._max_waiting:
            raise Exhausted(
                f"{self.running} requests are running and {self.waiting} are waiting, as many as may; try again "
                "later, or raise --max-waiting"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                # Admitted and cancelled at the same time: the place goes to the next request.
                self._running -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._running < self._slots:
            turn = self._waiting.popleft()
            if not turn.done():
                self._running += 1
                turn.set_result(None)
