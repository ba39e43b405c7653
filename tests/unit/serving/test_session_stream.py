"""A session lives exactly as long as its stream, and the event loop never waits for a pass."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from sybil_engine.core.errors import CommitGap, Exhausted, InvalidRequest, SybilError, Unavailable
from sybil_engine.core.session import SessionOpen
from sybil_engine.serving.delay_line import DelayLine
from sybil_engine.serving.engine_thread import EngineThread
from sybil_engine.serving.outbox import Outbox
from sybil_engine.serving.server import aborting
from sybil_engine.serving.session_stream import first_message, session_stream
from sybil_engine.serving.sessions import RemoteSession

OPENING = SessionOpen((1,), 1)
SOON_S = 5.0


@dataclass(eq=False)
class EchoSession:
    emit: Callable[[str | Exception], None]


@dataclass(eq=False)
class EchoEngine:
    """Sessions that emit what they are told. One of `slots` each."""

    slots: int = 2
    opening_takes_s: float = 0.0
    step_takes_s: float = 0.0
    opened: int = 0
    sessions: list[EchoSession] = field(default_factory=list)
    step_error: Exception | None = None

    def open(
        self, opening: SessionOpen, emit: Callable[[str | Exception], None], has_room: Callable[[], bool]
    ) -> EchoSession:
        time.sleep(self.opening_takes_s)
        if len(self.sessions) == self.slots:
            raise Exhausted("all slots are taken")
        self.opened += 1
        self.sessions.append(EchoSession(emit))
        return self.sessions[-1]

    def close(self, session: EchoSession) -> None:
        if session in self.sessions:
            self.sessions.remove(session)

    def fail(self, error: Exception) -> None:
        for session in list(self.sessions):
            session.emit(Unavailable(f"the pass failed ({error})"))
            self.close(session)

    def step(self) -> float | None:
        if self.step_error is not None:
            error, self.step_error = self.step_error, None
            raise error
        time.sleep(self.step_takes_s)
        return 0.001 if self.step_takes_s else None


@dataclass(frozen=True)
class EchoMessage:
    """A request message that is no opening, unless it says so."""

    word: str

    def HasField(self, field_name: str) -> bool:
        return self.word == field_name


def echo(session: EchoSession, message: EchoMessage, arrived_ns: int) -> None:
    if message.word == "gap":
        raise CommitGap("tokens are missing; reopen the session")
    session.emit(message.word)


async def saying(words: Sequence[str], then_forever: bool = False) -> AsyncIterator[EchoMessage]:
    for word in words:
        yield EchoMessage(word)
    if then_forever:
        await asyncio.Event().wait()


async def broken_stream() -> AsyncIterator[EchoMessage]:
    yield EchoMessage("one")
    raise RuntimeError("a message that cannot be decoded")


def understood(message: EchoMessage) -> EchoMessage:
    if message.word == "nonsense":
        raise InvalidRequest("that says nothing")
    return message


@asynccontextmanager
async def stream_of(
    thread: EngineThread[Any],
    messages: AsyncIterator[EchoMessage],
    handle: Callable[[EchoSession, EchoMessage, int], None],
) -> AsyncIterator[RemoteSession[Any, Any]]:
    async with session_stream(thread, OPENING, messages, understood, handle, lambda message: len(message.word)) as (
        _,
        remote,
    ):
        yield remote


def with_engine(engine: EchoEngine, test: Callable[[EngineThread[Any]], Coroutine[Any, Any, None]]) -> None:
    """Run `test` on an event loop of its own; afterwards nothing may be left open."""
    thread: EngineThread[Any] = EngineThread(lambda: engine, name="echo")
    thread.start().result(SOON_S)

    async def limited() -> None:
        await asyncio.wait_for(test(thread), SOON_S)

    try:
        asyncio.run(limited())
        assert thread.submit(lambda engine: engine.sessions).result(SOON_S) == []
    finally:
        thread.stop()


async def until_the_end(stream: RemoteSession[Any, Any]) -> None:
    async for _ in stream.events():
        pass


async def open_sessions(thread: EngineThread[Any]) -> int:
    return await asyncio.wrap_future(thread.submit(lambda engine: len(engine.sessions)))


def test_what_a_session_emits_comes_out_in_order_and_the_end_of_the_messages_ends_it() -> None:
    async def converse(thread: EngineThread[Any]) -> None:
        heard: list[str] = []
        async with stream_of(thread, saying(["a", "b", "c"], then_forever=True), echo) as stream:
            async for events in stream.events():
                heard += events
                if len(heard) == 3:
                    break
        assert heard == ["a", "b", "c"]
        async with stream_of(thread, saying([]), echo) as stream:
            assert [events async for events in stream.events()] == []

    with_engine(EchoEngine(), converse)


def test_an_error_in_a_message_ends_its_own_session_only() -> None:
    async def converse(thread: EngineThread[Any]) -> None:
        async with stream_of(thread, saying(["stay"], then_forever=True), echo) as other:
            async with stream_of(thread, saying(["a", "gap"], then_forever=True), echo) as stream:
                assert await anext(stream.events()) == ["a"]
                with pytest.raises(CommitGap):
                    await anext(stream.events())
            assert await open_sessions(thread) == 1
            assert await anext(other.events()) == ["stay"]

    with_engine(EchoEngine(), converse)


def test_messages_that_cannot_be_read_end_the_session() -> None:
    async def converse(thread: EngineThread[Any]) -> None:
        async with stream_of(thread, broken_stream(), echo) as stream:
            with pytest.raises(SybilError, match="cannot be decoded"):
                await until_the_end(stream)

    with_engine(EchoEngine(), converse)


def test_a_message_that_says_nothing_ends_the_session_after_those_before_it() -> None:
    async def converse(thread: EngineThread[Any]) -> None:
        async with stream_of(thread, saying(["a", "b", "nonsense", "c"], then_forever=True), echo) as stream:
            heard: list[str] = []
            with pytest.raises(InvalidRequest, match="says nothing"):
                async for events in stream.events():
                    heard += events
            assert heard == ["a", "b"]

    with_engine(EchoEngine(), converse)


def test_an_error_in_a_step_ends_every_session_and_new_ones_can_open() -> None:
    async def converse(thread: EngineThread[Any]) -> None:
        async with stream_of(thread, saying([], then_forever=True), echo) as stream:
            thread.post(lambda engine: setattr(engine, "step_error", ZeroDivisionError("broken")))
            with pytest.raises(Unavailable, match="the pass failed"):
                await anext(stream.events())
        async with stream_of(thread, saying(["again"], then_forever=True), echo) as stream:
            assert await anext(stream.events()) == ["again"]

    with_engine(EchoEngine(), converse)


def test_a_refused_opening_raises_and_takes_no_slot() -> None:
    async def converse(thread: EngineThread[Any]) -> None:
        with pytest.raises(Exhausted):
            async with stream_of(thread, saying([]), echo):
                pytest.fail("there is no slot")

    with_engine(EchoEngine(slots=0), converse)


@pytest.mark.parametrize("patience_s", [0.0, 0.01, 0.05])
def test_a_stream_that_is_cancelled_while_it_opens_frees_its_slot(patience_s: float) -> None:
    engine = EchoEngine(opening_takes_s=0.03)

    async def converse(thread: EngineThread[Any]) -> None:
        async def hold() -> None:
            async with stream_of(thread, saying([], then_forever=True), echo) as stream:
                await anext(stream.events())

        tasks = [asyncio.create_task(hold()) for _ in range(3)]
        await asyncio.sleep(patience_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await open_sessions(thread) == 0

    with_engine(engine, converse)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_after_any_mix_of_endings(seed: int) -> None:
    endings = ["finish", "cancel", "gap", "raise", "end"]

    async def converse(thread: EngineThread[Any]) -> None:
        async def live(ending: str) -> None:
            words = {"gap": ["a", "gap"], "end": ["a"]}.get(ending, ["a"])
            messages = saying(words, then_forever=ending not in ("end", "gap"))
            async with stream_of(thread, messages, echo) as stream:
                async for _ in stream.events():
                    if ending == "finish":
                        return
                    if ending == "raise":
                        raise RuntimeError("the servicer broke")

        tasks = [asyncio.create_task(live(endings[(seed + number) % 5])) for number in range(40)]
        await asyncio.sleep(0.001 * seed)
        for number, task in enumerate(tasks):
            if endings[(seed + number) % 5] == "cancel":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await open_sessions(thread) == 0

    with_engine(EchoEngine(slots=100), converse)


def test_the_event_loop_never_waits_for_a_pass() -> None:
    async def converse(thread: EngineThread[Any]) -> None:
        stalls_s: list[float] = []

        async def tick() -> None:
            while True:
                before_s = time.perf_counter()
                await asyncio.sleep(0.005)
                stalls_s.append(time.perf_counter() - before_s - 0.005)

        ticker = asyncio.create_task(tick())
        for _ in range(2):
            async with stream_of(thread, saying(["a"], then_forever=True), echo) as stream:
                assert await anext(stream.events()) == ["a"]
        ticker.cancel()
        # A loop that waits for passes ticks about once a pass. A single long stall can be a busy machine's doing.
        assert len(stalls_s) > 10
        assert sorted(stalls_s)[len(stalls_s) * 9 // 10] < 0.05
        assert max(stalls_s) < 0.2

    with_engine(EchoEngine(step_takes_s=0.3), converse)


# -------------------------------------------------------------------------------------------------------- arrival times


async def arrivals(thread: EngineThread[Any], words: Sequence[str], release: threading.Event) -> list[int]:
    """When messages arrived, by what `handle` is told, that are sent during a pass; it ends when all are here."""
    told: list[int] = []

    async def sent_during_a_pass() -> AsyncIterator[EchoMessage]:
        thread.post(lambda engine: release.wait(SOON_S))
        for word in words:
            yield EchoMessage(word)
            await asyncio.sleep(0.002)
        release.set()
        await asyncio.Event().wait()

    def note(session: EchoSession, message: EchoMessage, arrived_ns: int) -> None:
        told.append(arrived_ns)
        session.emit(message.word)

    heard: list[str] = []
    async with stream_of(thread, sent_during_a_pass(), note) as stream:
        async for events in stream.events():
            heard += events
            if len(heard) == len(words):
                break
    assert heard == list(words)
    return told


def test_a_message_has_the_time_at_which_it_arrived_though_it_waited_for_a_pass() -> None:
    class NotedEnd(threading.Event):
        at_ns = 0

        def set(self) -> None:
            self.at_ns = time.monotonic_ns()
            super().set()

    async def converse(thread: EngineThread[Any]) -> None:
        before_ns, end = time.monotonic_ns(), NotedEnd()
        told = await arrivals(thread, ["a", "b", "c"], end)
        assert before_ns < told[0] < told[1] < told[2] < end.at_ns

    with_engine(EchoEngine(), converse)


def test_over_an_emulated_link_a_message_arrives_when_its_delay_is_over() -> None:
    thread: EngineThread[Any] = EngineThread(EchoEngine, name="echo", delayed=DelayLine(0.05).delayed)
    thread.start().result(SOON_S)
    free = threading.Event()
    free.set()
    before_ns = time.monotonic_ns()
    (told,) = asyncio.run(asyncio.wait_for(arrivals(thread, ["a"], free), SOON_S))
    thread.stop()
    assert told - before_ns >= 50_000_000


# --------------------------------------------------------------------------------------------------------------- outbox


def test_an_outbox_drains_what_piled_up_at_once_and_its_error_last() -> None:
    async def drain() -> None:
        outbox: Outbox[int] = Outbox(asyncio.get_running_loop())
        for number in range(3):
            outbox.put(number)
        outbox.put(CommitGap("a gap"))
        outbox.put(3)
        assert await outbox.drain() == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(CommitGap):
                await outbox.drain()

    asyncio.run(drain())


def test_an_outbox_filled_on_another_thread_loses_nothing_and_keeps_the_order() -> None:
    async def drain() -> None:
        outbox: Outbox[int] = Outbox(asyncio.get_running_loop())

        def fill() -> None:
            for number in range(2_000):
                outbox.put(number)

        filler = threading.Thread(target=fill)
        filler.start()
        drained: list[int] = []
        while len(drained) < 2_000:
            drained += await asyncio.wait_for(outbox.drain(), SOON_S)
        filler.join()
        assert drained == list(range(2_000))

    asyncio.run(drain())


def test_an_outbox_whose_loop_is_gone_takes_events_silently() -> None:
    loop = asyncio.new_event_loop()
    outbox: Outbox[int] = Outbox(loop)
    loop.close()
    outbox.put(1)


# -------------------------------------------------------------------------------------------------- the edges of a call


@pytest.mark.parametrize("words", [[], ["block"]])
def test_a_stream_that_does_not_begin_with_open_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="begins with `open`"):
        asyncio.run(first_message(saying(words)))
    assert asyncio.run(first_message(saying(["open", "block"]))) == EchoMessage("open")


class AbortedCall:
    """What a servicer sees of a call that is aborted."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object = ()) -> None:
        raise RuntimeError(f"{code.name}: {details}")


def test_an_engines_error_aborts_the_call_with_its_status_and_words() -> None:
    async def serve(error: Exception) -> None:
        context: Any = AbortedCall()
        async with aborting(context):
            raise error

    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED: all slots are taken"):
        asyncio.run(serve(Exhausted("all slots are taken")))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(serve(ZeroDivisionError()))
