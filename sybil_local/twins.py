"""Four ways to call one async generator that runs on another thread's event loop.

The generator is written once. These make of it: an iterator, an async iterator, a function, and an async function.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

Parameters = ParamSpec("Parameters")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Submits(Protocol):
    """Whoever owns the event loop."""

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on that loop; cancelling the future cancels it."""


Owner = TypeVar("Owner", bound=Submits)
Generating = Callable[Concatenate[Owner, Parameters], AsyncGenerator[Item, None]]
Join = Callable[[Sequence[Item]], Result]


def iterator(
    generating: Generating[Owner, Parameters, Item],
) -> Callable[Concatenate[Owner, Parameters], Generator[Item]]:
    """For callers without an event loop. Leaving the iteration closes the generator."""

    @wraps(generating)
    def iterate(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> Generator[Item, None, None]:
        items = generating(self, *args, **named)
        try:
            while (item := _wait(self.submit(_next(items)))) is not None:
                yield item
        finally:
            _wait(self.submit(items.aclose()))

    return iterate


def async_iterator(
    generating: Generating[Owner, Parameters, Item],
) -> Callable[Concatenate[Owner, Parameters], AsyncGenerator[Item]]:
    """For callers on any event loop. Leaving the iteration closes the generator."""

    @wraps(generating)
    async def iterate(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> AsyncGenerator[Item, None]:
        items = generating(self, *args, **named)
        try:
            while (item := await asyncio.wrap_future(self.submit(_next(items)))) is not None:
                yield item
        finally:
            await asyncio.wrap_future(self.submit(items.aclose()))

    return iterate


def function(
    generating: Generating[Owner, Parameters, Item], join: Join[Item, Result]
) -> Callable[Concatenate[Owner, Parameters], Result]:
    """For callers without an event loop: all items, joined."""

    @wraps(generating)
    def call(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        return _wait(self.submit(_all(generating(self, *args, **named), join)))

    return call


def async_function(
    generating: Generating[Owner, Parameters, Item], join: Join[Item, Result]
) -> Callable[Concatenate[Owner, Parameters], Coroutine[Any, Any, Result]]:
    """For callers on any event loop: all items, joined."""

    @wraps(generating)
    async def call(self: Owner, /, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        return await asyncio.wrap_future(self.submit(_all(generating(self, *args, **named), join)))

    return call


async def _next(items: AsyncGenerator[Item, None]) -> Item | None:
    return await anext(items, None)


async def _all(items: AsyncGenerator[Item, None], join: Join[Item, Result]) -> Result:
    return join([item async for item in items])


def _wait(future: "Future[Result]") -> Result:
    try:
        return future.result()
    except BaseException:
        # Ctrl-C interrupts the wait, not what is waited for.
        future.cancel()
        raise
