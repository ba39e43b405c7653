"""A session's life on a stream: opened by its first message, freed by its end, however it ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from sybil_engine.core.errors import InvalidRequest, SybilError
from sybil_engine.core.session import SessionOpen
from sybil_engine.serving.decoding import undecodable
from sybil_engine.serving.engine_thread import Engine, EngineThread
from sybil_engine.serving.outbox import Outbox
from sybil_engine.serving.server import status_code

Session = TypeVar("Session")
Event = TypeVar("Event")
EmittedEvent = TypeVar("EmittedEvent", covariant=True)


class _Openable(Protocol):
    """A request message of a session's stream."""

    def HasField(self, field_name: Any, /) -> bool: ...


Message = TypeVar("Message", bound=_Openable)


class SessionEngine(Engine, Protocol[Session, EmittedEvent]):
    """An engine whose sessions take messages and emit events."""

    def open(self, opening: SessionOpen, emit: Callable[[EmittedEvent | Exception], None]) -> Session:
        """Take a slot for a session."""

    def close(self, session: Session) -> None:
        """Free all that a session holds; closing it again changes nothing."""


class _StreamEnded(Exception):
    """The client sends no more."""


class SessionStream(Generic[Session, Event]):
    """An open session, between its gRPC stream and the engine's thread."""

    def __init__(
        self, thread: EngineThread[SessionEngine[Session, Event]], session: Session, outbox: Outbox[Event]
    ) -> None:
        self._thread = thread
        self._outbox = outbox
        self.session = session

    async def read(self, messages: AsyncIterator[Message], handle: Callable[[Session, Message, int], None]) -> None:
        """Hand each message to `handle` on the engine's thread; the end of the messages, or an error, ends `events`.

        Args:
            handle: is told when the message arrived, too, by `time.monotonic_ns`, because it may have waited for a
                pass. Raises SybilError for a message that ends the session.
        """

        def guarded(message: Message, arrived_ns: int, _: object) -> None:
            try:
                handle(self.session, message, arrived_ns)
            except SybilError as error:
                self._outbox.put(error)

        def deliver(message: Message) -> None:
            self._thread.post(partial(guarded, message, time.monotonic_ns()))

        try:
            async for message in messages:
                self._thread.link.put(deliver, message)
        except Exception as error:  # noqa: BLE001 - a message that cannot be decoded, say: its session ends
            self._outbox.put(InvalidRequest(f"a message cannot be read ({error}); reopen the session"))
        else:
            # Behind the messages before it.
            self._thread.link.put(self._thread.post, lambda _: self._outbox.put(_StreamEnded()))

    async def events(self) -> AsyncIterator[list[Event]]:
        """Yield what the session emits, as many events at a time as there are.

        Raises:
            SybilError: what ended the session.
        """
        while True:
            try:
                yield await self._outbox.drain()
            except _StreamEnded:
                return


@asynccontextmanager
async def session_stream(
    thread: EngineThread[Any],
    opening: SessionOpen,
    messages: AsyncIterator[Message],
    handle: Callable[[Any, Message, int], None],
) -> AsyncIterator[SessionStream[Any, Any]]:
    """Open a session on the engine's thread, read its stream in the background, and free it when the block is left."""
    outbox: Outbox[Any] = Outbox(asyncio.get_running_loop())
    opened: list[Any] = []

    def open_session(engine: SessionEngine[Any, Any]) -> Any:
        opened.append(engine.open(opening, partial(thread.link.put, outbox.put)))
        return opened[0]

    def close_session(engine: SessionEngine[Any, Any]) -> None:
        for session in opened:
            engine.close(session)

    reader: asyncio.Task[None] | None = None
    try:
        session = await asyncio.wrap_future(thread.submit(open_session))
        stream = SessionStream(thread, session, outbox)
        reader = asyncio.create_task(stream.read(messages, handle))
        yield stream
    finally:
        if reader is not None:
            reader.cancel()
        # Posted behind `open_session`: a stream that is cancelled while it opens is freed all the same.
        thread.post(close_session)


@asynccontextmanager
async def aborting(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """Turn an engine's errors into the call's status."""
    try:
        yield
    except SybilError as error:
        await context.abort(status_code(error), str(error))


async def first_message(messages: AsyncIterator[Message]) -> Message:
    """Take a stream's first message, which opens the session.

    Raises:
        InvalidRequest: there is none, it is another one, or it cannot be decoded.
    """
    try:
        message = await anext(aiter(messages), None)
    except DecodeError as error:
        raise InvalidRequest(undecodable("the first message", error)) from error
    if message is None or not message.HasField("open"):
        raise InvalidRequest("a stream begins with `open`; send it before anything else")
    return message
