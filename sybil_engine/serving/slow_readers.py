"""Streams whose readers do not read: flow control holds their writers back, but not for ever."""

import asyncio
from typing import Any

import grpc

from sybil_engine.core.errors import SlowReader


async def write(context: "grpc.aio.ServicerContext[Any, Any]", message: Any, slow_reader_s: float) -> None:
    """Send a message, which takes as long as there is no room for it on the way to the reader.

    Raises:
        SlowReader: there has been none for `slow_reader_s`.
    """
    try:
        async with asyncio.timeout(slow_reader_s):
            await context.write(message)
    except TimeoutError:
        raise SlowReader(
            f"this stream has not been read for {slow_reader_s:g} s (--slow-reader-s), so its session has ended; read "
            "what is left, and go on after the last committed token with another call"
        ) from None
