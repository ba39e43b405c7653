"""A session's events on their way from the engine thread to the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

Event = TypeVar("Event")

MOST_EVENTS = 64
"""Far more than a reader that keeps up leaves waiting."""


class Outbox(Generic[Event]):
    """A queue that any thread fills and one coroutine drains, all waiting events at a time.

    It takes every event, but says when it is full: its session then pauses until the reader has caught up.

    Args:
        has_room_again: called on the loop after an outbox was drained that may have been full.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, has_room_again: Callable[[], None] = lambda: None) -> None:
        self._loop = loop
        self._has_room_again = has_room_again
        self._events: deque[Event | Exception] = deque()
        self._filled = asyncio.Event()

    def has_room(self) -> bool:
        """Whether the reader keeps up; any thread may ask."""
        return len(self._events) < MOST_EVENTS

    def put(self, event: Event | Exception) -> None:
        """Add an event, or an error that ends the session."""
        self._events.append(event)
        # A closed loop means that the server has ended, and with it its sessions.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._filled.set)

    async def drain(self) -> list[Event]:
        """Wait for events and take all of them.

        Raises:
            The error that was put, once the events before it are drained.
        """
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        drained: list[Event] = []
        while self._events:
            event = self._events[0]
            if isinstance(event, Exception):
                if not drained:
                    raise event
                break
            drained.append(event)
            self._events.popleft()
        # Counted afterwards: some may have come meanwhile.
        if len(drained) >= MOST_EVENTS:
            self._has_room_again()
        return drained
