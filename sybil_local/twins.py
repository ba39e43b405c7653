"""Four ways to call one async generator that runs on another thread's event loop.

The generator is written once. These make of it: an iterator, an async iterator, a function, and an async function.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from functools import wraps
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sybil_engine.core.errors import Unavailable

Parameters = ParamSpec("Parameters")
Item = TypeVar("Item")
Result = TypeVar("Result")
Twin = TypeVar("Twin", bound=Callable[..., Any])

CLOSED = "this engine is closed; make another LocalEngine"


class Submits(Protocol):
    """Whoever owns the event loop."""

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on that loop; cancelling the future cancels it."""


Owner = TypeVar("Owner", bound=Submits)
Generating = Callable[Concatenate[Owner, Parameters], AsyncGenerator[Item, None]]
Join = Callable[[Sequence[Item]], Result]


def iterator(
    name: str, generating: Generating[Owner, Parameters, Item]
) -> Callable[Concatenate[Owner, Parameters], Generator[Item]]:
    """For callers without an event loop. Leaving the iteration ends the generator."""

    @_named(name, generating, "Yields each item.")
    def iterate(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> Generator[Item, None, None]:
        received: SimpleQueue[Item | Future[None]] = SimpleQueue()
        running = self.submit(_pump(generating(self, *args, **named), received.put))
        running.add_done_callback(received.put)
        try:
            while not isinstance(item := received.get(), Future):
                yield item
            _raise_failure(item)
        finally:
            running.cancel()

    return iterate


def async_iterator(
    name: str, generating: Generating[Owner, Parameters, Item]
) -> Callable[Concatenate[Owner, Parameters], AsyncGenerator[Item]]:
    """For callers on any event loop. Closing the iterator ends the generator; `contextlib.aclosing` does so at once."""

    @_named(name, generating, "Yields each item. Close the iterator, by `contextlib.aclosing`, to end early.")
    async def iterate(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> AsyncGenerator[Item, None]:
        received: asyncio.Queue[Item | Future[None]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(item: Item | Future[None]) -> None:
            with suppress(RuntimeError):  # the caller's loop is closed: nobody waits
                loop.call_soon_threadsafe(received.put_nowait, item)

        running = self.submit(_pump(generating(self, *args, **named), put))
        running.add_done_callback(put)
        try:
            while not isinstance(item := await received.get(), Future):
                yield item
            _raise_failure(item)
        finally:
            running.cancel()

    return iterate


def function(
    name: str, generating: Generating[Owner, Parameters, Item], join: Join[Item, Result]
) -> Callable[Concatenate[Owner, Parameters], Result]:
    """For callers without an event loop: all items, joined."""
    iterate = iterator(name, generating)

    @_named(name, generating, "Returns all items, joined.")
    def call(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        return join(list(iterate(self, *args, **named)))

    return call


def async_function(
    name: str, generating: Generating[Owner, Parameters, Item], join: Join[Item, Result]
) -> Callable[Concatenate[Owner, Parameters], Coroutine[Any, Any, Result]]:
    """For callers on any event loop: all items, joined."""
    iterate = async_iterator(name, generating)

    @_named(name, generating, "Returns all items, joined.")
    async def call(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        async with aclosing(iterate(self, *args, **named)) as items:
            return join([item async for item in items])

    return call


def _named(name: str, generating: Callable[..., Any], result: str) -> Callable[[Twin], Twin]:
    """Give a twin its name, and the generator's parameters and docstring with its own result."""

    def describe(twin: Twin) -> Twin:
        returned = twin.__annotations__["return"]
        wraps(generating)(twin)
        twin.__name__ = name
        twin.__qualname__ = f"{generating.__qualname__.rpartition('.')[0]}.{name}"
        twin.__doc__ = f"{inspect.getdoc(generating)}\n\n{result}"
        signature = inspect.signature(generating).replace(return_annotation=returned)
        twin.__signature__ = signature  # type: ignore[attr-defined]
        return twin

    return describe


async def _pump(items: AsyncGenerator[Item, None], put: Callable[[Item], object]) -> None:
    """Put every item. Cancelled, it ends the generator."""
    async with aclosing(items):
        async for item in items:
            put(item)


def _raise_failure(ended: "Future[None]") -> None:
    """Raise what ended the items early."""
    if ended.cancelled():
        raise Unavailable(CLOSED)
    ended.result()
