"""What comes too fast waits with whoever sends it; what nobody reads makes its session pause. Memory does not grow."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from sybil_engine.core.errors import SlowReader
from sybil_engine.serving.backlog import MESSAGE_COST_TOKENS, MOST_WAITING_TOKENS, Backlog
from sybil_engine.serving.engine_thread import EngineThread
from sybil_engine.serving.outbox import MOST_EVENTS, Outbox
from sybil_engine.serving.slow_readers import write
from tests.unit.serving.test_session_stream import SOON_S, EchoEngine, EchoMessage, EchoSession, stream_of

# -------------------------------------------------------------------------------------------------------------- backlog


@pytest.mark.parametrize("tokens", [0, 1, 100, MOST_WAITING_TOKENS // 2, 10 * MOST_WAITING_TOKENS])
def test_no_more_is_added_than_may_wait_until_some_is_handled(tokens: int) -> None:
    async def fill() -> None:
        backlog, waiting = Backlog(), list[int]()

        async def add() -> None:
            while len(waiting) < 1_000:
                waiting.append(await backlog.add(tokens))

        adding = asyncio.create_task(add())
        for handled in (0, 1, 2, 1):
            for cost in waiting[:handled]:
                await asyncio.to_thread(backlog.handled, cost)
                waiting.remove(cost)
            await asyncio.sleep(0.01)
            assert sum(waiting) <= MOST_WAITING_TOKENS < sum(waiting) + waiting[0], "as many as fit, and not one more"
        adding.cancel()

    asyncio.run(asyncio.wait_for(fill(), SOON_S))


def test_a_stream_is_read_no_faster_than_its_messages_are_handled_and_none_is_lost() -> None:
    words, read = [str(number) for number in range(1_000)], list[str]()
    hold = threading.Event()

    async def saying_fast() -> AsyncIterator[EchoMessage]:
        for word in words:
            read.append(word)
            yield EchoMessage(word)
        await asyncio.Event().wait()

    handled, all_handled = list[str](), threading.Event()

    def handle(session: EchoSession, message: EchoMessage, arrived_ns: int) -> None:
        handled.append(message.word)
        if len(handled) == len(words):
            all_handled.set()

    async def converse() -> None:
        async with stream_of(thread, saying_fast(), handle):
            thread.post(lambda engine: hold.wait(SOON_S))
            await asyncio.sleep(0.1)
            waiting = len(read) - len(handled)
            assert 1 < waiting <= MOST_WAITING_TOKENS // MESSAGE_COST_TOKENS + 1
            hold.set()
            assert await asyncio.to_thread(all_handled.wait, SOON_S)

    thread: EngineThread[EchoEngine] = EngineThread(EchoEngine, name="held-back")
    thread.start().result(SOON_S)
    asyncio.run(asyncio.wait_for(converse(), SOON_S))
    thread.stop()
    assert handled == words


# ---------------------------------------------------------------------------------------------------------------- turns


def test_an_engine_steps_however_much_work_is_posted() -> None:
    steps, enough = 0, threading.Event()

    class SteppingEngine:
        def step(self) -> float | None:
            nonlocal steps
            steps += 1
            if steps == 3:
                enough.set()
            return None

        def fail(self, error: Exception) -> None:
            raise error

    def never_done(engine: SteppingEngine) -> None:
        if not enough.is_set():
            thread.post(never_done)

    thread: EngineThread[SteppingEngine] = EngineThread(SteppingEngine, name="busy")
    thread.start().result(SOON_S)
    thread.post(never_done)
    assert enough.wait(SOON_S), "posted work must not keep the engine from its passes"
    thread.stop()


# --------------------------------------------------------------------------------------------------------------- outbox


def test_an_outbox_says_when_it_is_full_and_tells_when_it_no_longer_is() -> None:
    async def fill_and_drain() -> None:
        told: list[bool] = []
        outbox: Outbox[int] = Outbox(asyncio.get_running_loop(), lambda: told.append(outbox.has_room()))
        for number in range(MOST_EVENTS):
            assert outbox.has_room()
            outbox.put(number)
        assert not outbox.has_room()
        assert len(await outbox.drain()) == MOST_EVENTS
        assert told == [True]
        outbox.put(0)
        await outbox.drain()
        assert told == [True], "it was not full: its session has not paused"

    asyncio.run(fill_and_drain())


# --------------------------------------------------------------------------------------------------------- slow readers


class StuckReader:
    """A call whose reader takes this many messages."""

    def __init__(self, takes: int) -> None:
        self._takes = takes

    async def write(self, message: object) -> None:
        if not self._takes:
            await asyncio.Event().wait()
        self._takes -= 1


def test_a_message_that_nobody_reads_ends_the_stream_after_the_time_that_was_set() -> None:
    async def write_two() -> None:
        context: object = StuckReader(takes=1)
        await write(context, "one", 0.05)  # type: ignore[arg-type]
        with pytest.raises(SlowReader, match=r"not been read for 0.05 s \(--slow-reader-s\)"):
            await write(context, "two", 0.05)  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(write_two(), SOON_S))
