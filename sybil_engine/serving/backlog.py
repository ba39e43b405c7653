"""How much of a session's input waits for the engine's thread."""

import asyncio
from contextlib import suppress

from sybil_engine.core.types import MOST_MESSAGE_TOKENS

MOST_WAITING_TOKENS = 2 * MOST_MESSAGE_TOKENS
MESSAGE_COST_TOKENS = 32
"""What handling a message costs besides its tokens, in tokens."""


class Backlog:
    """Counts what waits, and lets its sender wait while that is too much.

    So a stream is read no faster than its messages are handled, and flow control holds back whoever writes it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Each is written by one thread: the event loop's, and the engine's.
        self._added_tokens = 0
        self._handled_tokens = 0
        self._wants_room = False
        self._has_room = asyncio.Event()

    async def add(self, tokens: int) -> int:
        """Wait for room, and add a message of this many tokens. Returns what to give to `handled`."""
        cost = min(MESSAGE_COST_TOKENS + tokens, MOST_WAITING_TOKENS)
        while not self._fits(cost):
            self._has_room.clear()
            self._wants_room = True
            # Again: the engine's thread may have looked before it could see that somebody waits.
            if not self._fits(cost):
                await self._has_room.wait()
            self._wants_room = False
        self._added_tokens += cost
        return cost

    def handled(self, cost: int) -> None:
        """Take a message out, on the engine's thread."""
        self._handled_tokens += cost
        if self._wants_room:
            # A closed loop means that the server has ended.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._has_room.set)

    def _fits(self, cost: int) -> bool:
        return self._added_tokens - self._handled_tokens + cost <= MOST_WAITING_TOKENS
