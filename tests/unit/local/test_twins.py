"""Four ways to call one async generator: the same items, and an end that reaches the generator."""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

from sybil_local import twins

Result = TypeVar("Result")


class Counter:
    """Counts on a loop of its own, and remembers what became of each count."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.ended: list[str] = []
        self.first = threading.Event()

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def _count(self, to: int, *, pause_s: float = 0.0) -> AsyncGenerator[int, None]:
        """Count."""
        try:
            for number in range(to):
                self.first.set()
                yield number
                await asyncio.sleep(pause_s)
            if to < 0:
                raise ValueError("cannot count that far down")
            self.ended.append("done")
        except (GeneratorExit, asyncio.CancelledError):
            self.ended.append("left")
            raise

    each = twins.iterator("each", _count)
    aeach = twins.async_iterator("aeach", _count)
    every = twins.function("every", _count, list)
    aevery = twins.async_function("aevery", _count, list)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def counter() -> Iterator[Counter]:
    it = Counter()
    yield it
    it.close()


async def gathered(counter: Counter, to: int) -> list[int]:
    return [number async for number in counter.aeach(to)]


@pytest.mark.parametrize("to", [0, 1, 5])
def test_all_four_give_the_same_items(counter: Counter, to: int) -> None:
    items = list(range(to))
    assert list(counter.each(to)) == items
    assert asyncio.run(gathered(counter, to)) == items
    assert counter.every(to) == items
    assert asyncio.run(counter.aevery(to)) == items
    assert counter.ended == ["done"] * 4


def test_all_four_raise_what_the_generator_raises(counter: Counter) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: list(counter.each(-1)),
        lambda: asyncio.run(gathered(counter, -1)),
        lambda: counter.every(-1),
        lambda: asyncio.run(counter.aevery(-1)),
    )
    for call in calls:
        with pytest.raises(ValueError, match="that far down"):
            call()


def test_leaving_an_iteration_closes_the_generator(counter: Counter) -> None:
    for number in counter.each(1_000, pause_s=0.01):
        if number == 2:
            break

    async def leave() -> None:
        numbers = counter.aeach(1_000, pause_s=0.01)
        async for number in numbers:
            if number == 2:
                break
        await numbers.aclose()

    asyncio.run(leave())
    # What comes after them on the loop comes after their ends.
    assert counter.every(1) == [0]
    assert counter.ended == ["left", "left", "done"]


def test_a_cancelled_await_cancels_the_generator(counter: Counter) -> None:
    async def cancelled() -> None:
        waiting = asyncio.ensure_future(counter.aevery(1_000, pause_s=0.01))
        await asyncio.to_thread(counter.first.wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancelled())
    assert counter.every(1) == [0]
    assert counter.ended == ["left", "done"]


def test_each_has_a_name_of_its_own_and_the_parameters_and_words_of_the_generator() -> None:
    for name in ("each", "aeach", "every", "aevery"):
        twin = getattr(Counter, name)
        assert (twin.__name__, twin.__qualname__) == (name, f"Counter.{name}")
        assert (twin.__doc__ or "").startswith("Count.\n")
        assert tuple(inspect.signature(twin).parameters) == ("self", "to", "pause_s")
    assert inspect.signature(Counter.every).return_annotation != inspect.signature(Counter.each).return_annotation
