"""A session on an engine's thread, used from an event loop: opened, fed, read, and always freed."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from sybil_engine.core.errors import SybilError, Unavailable
from sybil_engine.core.session import SessionOpen
from sybil_engine.serving.backlog import Backlog
from sybil_engine.serving.engine_thread import Engine, EngineThread
from sybil_engine.serving.outbox import Outbox

logger = logging.getLogger(__name__)

Session = TypeVar("Session")
Event = TypeVar("Event")
EmittedEvent = TypeVar("EmittedEvent", covariant=True)
Message = TypeVar("Message")


class SessionEngine(Engine, Protocol[Session, EmittedEvent]):
    """An engine whose sessions take messages and emit events."""

    def open(
        self,
        opening: SessionOpen,
        emit: Callable[[EmittedEvent | Exception], None],
        has_room: Callable[[], bool],
    ) -> Session:
        """Take a slot for a session.

        Args:
            has_room: whether more events may be emitted now; while not, the session pauses.
        """

    def close(self, session: Session) -> None:
        """Free all that a session holds; closing it again changes nothing."""


class _Ended(Exception):
    """There are no more messages."""


class RemoteSession(Generic[Session, Event]):
    """A session whose engine runs on another thread."""

    def __init__(self, thread: EngineThread[SessionEngine[Session, Event]]) -> None:
        self._thread = thread
        self._outbox: Outbox[Event] = Outbox(asyncio.get_running_loop(), lambda: thread.post(lambda _: None))
        self._backlog = Backlog()
        self._opened: list[Session] = []

    async def open(self, opening: SessionOpen) -> Session:
        """Open the session.

        Raises:
            SybilError: the engine refuses it.
        """
        emit = self._thread.delayed(self._outbox.put)

        def open_session(engine: SessionEngine[Session, Event]) -> Session:
            self._opened.append(engine.open(opening, emit, self._outbox.has_room))
            return self._opened[0]

        return await asyncio.wrap_future(self._thread.submit(open_session))

    def sender(
        self, handle: Callable[[Session, Message, int], object], tokens: Callable[[Message], int]
    ) -> Callable[[Message], Awaitable[None]]:
        """A function that passes messages to `handle` on the engine's thread, in order. It waits while many wait.

        Args:
            handle: also takes the message's arrival time, by `time.monotonic_ns`, since messages may wait for a pass.
                Raises SybilError for a message that ends the session.
            tokens: how many a message holds.
        """

        def guarded(message: Message, cost: int, arrived_ns: int) -> None:
            try:
                handle(self._opened[0], message, arrived_ns)
            except SybilError as error:
                self._outbox.put(error)
            except Exception as error:
                logger.exception("a session failed")
                self._outbox.put(Unavailable(f"the session failed ({error}); reopen it with all committed tokens"))
            finally:
                self._backlog.handled(cost)

        def post(message_and_cost: tuple[Message, int]) -> None:
            arrived_ns = time.monotonic_ns()
            self._thread.post(lambda _: guarded(*message_and_cost, arrived_ns))

        deliver = self._thread.delayed(post)

        async def send(message: Message) -> None:
            deliver((message, await self._backlog.add(tokens(message))))

        return send

    def end(self, error: Exception | None = None) -> None:
        """End `events` after all earlier messages are handled, with an error if one is given."""
        self._thread.delayed(self._thread.post)(lambda _: self._outbox.put(error or _Ended()))

    async def events(self) -> AsyncIterator[list[Event]]:
        """Yield the session's events, all waiting ones at a time.

        Raises:
            SybilError: the reason that the session ended.
        """
        while True:
            try:
                yield await self._outbox.drain()
            except _Ended:
                return

    def close(self) -> None:
        """Free the session. One that is still being opened is freed right after that."""

        def close_session(engine: SessionEngine[Session, Event]) -> None:
            for session in self._opened:
                engine.close(session)

        self._thread.post(close_session)
