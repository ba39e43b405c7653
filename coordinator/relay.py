"""Messages on their way to one stream: putting one never waits, even if the stream is slow."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from sybil_engine.core.errors import SybilError

logger = logging.getLogger(__name__)

Message = TypeVar("Message")


class Relay(Generic[Message]):
    """Sends messages in order from a task of its own, until it is closed. Waiting messages are sent together.

    An error of `send` ends the sending; the reader of the same stream is told why.
    """

    def __init__(
        self,
        first: Callable[[], Awaitable[None]],
        send: Callable[[Sequence[Message]], Awaitable[None]],
        sent: Callable[[int], None],
    ) -> None:
        """
        Args:
            first: opens the stream, before any message is sent.
            sent: called with each message's arrival time, in nanoseconds, once it has been written.
        """
        self._send = send
        self._sent = sent
        self._queue: deque[tuple[Message, int]] = deque()
        self._filled = asyncio.Event()
        self._task = asyncio.create_task(self._run(first))

    def close(self) -> None:
        """Stop sending."""
        self._task.cancel()

    def put(self, messages: Iterable[Message], arrived_ns: int) -> None:
        """Add messages that arrived together to those to be sent."""
        self._queue += ((message, arrived_ns) for message in messages)
        self._filled.set()

    async def _run(self, first: Callable[[], Awaitable[None]]) -> None:
        try:
            await first()
            while True:
                while self._queue:
                    messages, arrivals_ns = zip(*self._queue, strict=True)
                    self._queue.clear()
                    await self._send(messages)
                    for arrived_ns in arrivals_ns:
                        self._sent(arrived_ns)
                self._filled.clear()
                await self._filled.wait()
        except SybilError:
            pass  # the reader of the same stream is told
        except Exception:
            logger.exception("messages to a stream cannot be sent")
