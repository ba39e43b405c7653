"""A session's gRPC stream: its first message opens the session, its end frees it in any case."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError

from sybil_engine.core.errors import InvalidRequest, SybilError
from sybil_engine.core.session import SessionOpen
from sybil_engine.serving.convert import open_from_wire
from sybil_engine.serving.decoding import undecodable
from sybil_engine.serving.engine_thread import EngineThread
from sybil_engine.serving.opening import check_lengths
from sybil_engine.serving.sessions import RemoteSession


class _Openable(Protocol):
    """A request message of a session's stream."""

    def HasField(self, field_name: Any, /) -> bool: ...


Request = TypeVar("Request", bound=_Openable)
Message = TypeVar("Message")


@asynccontextmanager
async def session_stream(
    thread: EngineThread[Any],
    opening: SessionOpen,
    requests: AsyncIterator[Request],
    decode: Callable[[Request], Message],
    handle: Callable[[Any, Message, int], object],
    tokens: Callable[[Message], int],
) -> AsyncIterator[tuple[Any, RemoteSession[Any, Any]]]:
    """Open a session on the engine's thread, read its stream in the background, and free it when the block is left.

    Args:
        decode: called on the event loop, while the engine's thread may run a pass.
        handle, tokens: see `RemoteSession.sender`.
    """
    with closing(RemoteSession(thread)) as remote:
        session = await remote.open(opening)
        send = remote.sender(handle, tokens)
        reader = asyncio.create_task(_read(remote, requests, lambda request: send(decode(request))))
        try:
            yield session, remote
        finally:
            reader.cancel()


async def _read(
    remote: RemoteSession[Any, Any], requests: AsyncIterator[Request], take: Callable[[Request], Awaitable[None]]
) -> None:
    try:
        async for request in requests:
            await take(request)
    except SybilError as error:
        # Its traceback holds the message, which may be large, and would live as long as the error.
        remote.end(error.with_traceback(None))
    except Exception as error:  # noqa: BLE001 - such as an undecodable message; ends the session
        remote.end(InvalidRequest(f"a message cannot be read ({error}); reopen the session"))
    else:
        remote.end()


async def read_opening(requests: AsyncIterator[Any], context_tokens: int) -> SessionOpen:
    """Take a stream's opening.

    Raises:
        InvalidRequest, ContextExceeded: there is none, or it says something impossible.
    """
    opening = (await first_message(requests)).open
    check_lengths(opening, context_tokens)
    return open_from_wire(opening)


async def first_message(requests: AsyncIterator[Request]) -> Request:
    """Take a stream's first message, which opens the session.

    Raises:
        InvalidRequest: there is none, it is not an opening, or it cannot be decoded.
    """
    try:
        message = await anext(aiter(requests), None)
    except DecodeError as error:
        raise InvalidRequest(undecodable("the first message", error)) from error
    if message is None or not message.HasField("open"):
        raise InvalidRequest("a stream begins with `open`; send it before anything else")
    return message
