"""Messages on their way to one stream: putting one never waits, even if the stream is slow."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from sybil_engine.core.errors import SybilError

logger = logging.getLogger(__name__)

Message = TypeVar("Message")

_MOST_WAITING = 64


class Relay(Generic[Message]):
    """Sends messages in order from a task of its own, until it is closed. Waiting messages are sent together.

    An error of `send` ends the sending; the reader of the same stream is told why.
    """

    def __init__(
        self,
        first: Callable[[], Awaitable[None]],
        send: Callable[[Sequence[Message]], Awaitable[None]],
        sent: Callable[[int], None],
        shrink: Callable[[Sequence[Message]], Sequence[Message]],
    ) -> None:
        """
        Args:
            first: opens the stream, before any message is sent.
            sent: called with each message's arrival time, in nanoseconds, once it has been written.
            shrink: what to send instead of many waiting messages, so that a slow stream does not fill the memory.
        """
        self._send = send
        self._sent = sent
        self._shrink = shrink
        self._waiting: list[Message] = []
        self._arrivals_ns: list[int] = []
        self._filled = asyncio.Event()
        self._task = asyncio.create_task(self._run(first))

    def close(self) -> None:
        """Stop sending."""
        self._task.cancel()

    def put(self, messages: Iterable[Message], arrived_ns: int) -> None:
        """Add messages that arrived together to those to be sent."""
        self._waiting += messages
        self._arrivals_ns += [arrived_ns] * (len(self._waiting) - len(self._arrivals_ns))
        if len(self._waiting) > _MOST_WAITING:
            self._waiting = list(self._shrink(self._waiting))
            del self._arrivals_ns[: len(self._arrivals_ns) - len(self._waiting)]
        self._filled.set()

    async def _run(self, first: Callable[[], Awaitable[None]]) -> None:
        try:
            await first()
            while True:
                while self._waiting:
                    messages, arrivals_ns = self._waiting, self._arrivals_ns
                    self._waiting, self._arrivals_ns = [], []
                    await self._send(messages)
                    for arrived_ns in arrivals_ns:
                        self._sent(arrived_ns)
                self._filled.clear()
                await self._filled.wait()
        except SybilError:
            pass  # the reader of the same stream is told
        except Exception:
            logger.exception("messages to a stream cannot be sent")
