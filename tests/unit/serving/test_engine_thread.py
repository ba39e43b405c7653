"""One thread owns an engine: it runs posted work between steps, survives a failing step, and ends when told to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from sybil_engine.serving.engine_thread import EngineThread

SOON_S = 5.0


class CountingEngine:
    """Counts its steps; `next_step` says what the next one does."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.steps = 0
        self.failures: list[Exception] = []
        self.failed = threading.Event()
        self.next_step: Callable[[], float | None] = lambda: None

    def step(self) -> float | None:
        assert threading.current_thread() is self.thread
        self.steps += 1
        return self.next_step()

    def fail(self, error: Exception) -> None:
        self.failures.append(error)
        self.next_step = lambda: None
        self.failed.set()


@contextmanager
def running() -> Iterator[EngineThread[CountingEngine]]:
    thread = EngineThread(CountingEngine, name="engine-under-test")
    thread.start().result(SOON_S)
    try:
        yield thread
    finally:
        thread.stop()
    assert "engine-under-test" not in [each.name for each in threading.enumerate()]


def _note(order: list[int], number: int, engine: object) -> None:
    order.append(number)


def test_work_runs_on_the_engines_thread_in_the_order_in_which_it_was_posted() -> None:
    order: list[int] = []
    with running() as thread:
        for number in range(100):
            thread.post(partial(_note, order, number))
        assert thread.submit(lambda engine: threading.current_thread() is engine.thread).result(SOON_S)
    assert order == list(range(100))


@pytest.mark.parametrize("delay_s", [1e11, 1e300, float("inf")])
def test_a_step_that_is_due_in_many_years_does_not_end_the_thread(delay_s: float) -> None:
    with running() as thread:
        thread.submit(lambda engine: setattr(engine, "next_step", lambda: delay_s)).result(SOON_S)
        for _ in range(3):
            assert thread.submit(lambda engine: engine.steps).result(SOON_S) >= 0


def test_an_engine_with_nothing_due_does_not_step_until_work_arrives() -> None:
    with running() as thread:
        before = thread.submit(lambda engine: engine.steps).result(SOON_S)
        threading.Event().wait(0.05)
        # One step may have followed the first piece of work, none without any.
        assert thread.submit(lambda engine: engine.steps).result(SOON_S) <= before + 1


def test_an_engine_with_work_due_steps_without_being_woken() -> None:
    enough = threading.Event()

    def step_until_enough(engine: CountingEngine) -> float | None:
        if engine.steps > 20:
            enough.set()
            return None
        return 0.0 if engine.steps % 2 else 0.001

    with running() as thread:
        thread.post(lambda engine: setattr(engine, "next_step", lambda: step_until_enough(engine)))
        assert enough.wait(SOON_S)


def test_an_engine_that_waits_for_its_next_step_is_woken_by_work() -> None:
    with running() as thread:
        thread.post(lambda engine: setattr(engine, "next_step", lambda: 3_600.0))
        for _ in range(3):
            thread.submit(lambda engine: None).result(SOON_S)


def test_an_error_in_a_step_ends_the_sessions_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken_pass() -> float | None:
        raise ZeroDivisionError("a broken pass")

    with running() as thread:
        engine = thread.submit(lambda engine: engine).result(SOON_S)
        thread.post(lambda engine: setattr(engine, "next_step", broken_pass))
        assert engine.failed.wait(SOON_S)
        assert [type(error) for error in engine.failures] == [ZeroDivisionError]
        assert thread.submit(lambda engine: "still here").result(SOON_S) == "still here"
    assert "a step failed" in caplog.text


def test_submitted_work_that_raises_tells_its_caller_and_nobody_else() -> None:
    def refuse(engine: CountingEngine) -> None:
        raise ValueError("refused")

    with running() as thread:
        with pytest.raises(ValueError, match="refused"):
            thread.submit(refuse).result(SOON_S)
        assert thread.submit(lambda engine: engine.failures).result(SOON_S) == []


def test_submitted_work_that_was_cancelled_never_runs() -> None:
    ran: list[str] = []
    hold = threading.Event()
    with running() as thread:
        thread.post(lambda engine: hold.wait(SOON_S))
        future = thread.submit(lambda engine: ran.append("cancelled"))
        assert future.cancel()
        hold.set()
        thread.submit(lambda engine: ran.append("kept")).result(SOON_S)
    assert ran == ["kept"]


def test_what_loading_raises_reaches_the_caller_that_waits_for_the_engine() -> None:
    def load() -> CountingEngine:
        raise FileNotFoundError("no such model")

    thread = EngineThread(load, name="engine-that-never-loads")
    with pytest.raises(FileNotFoundError, match="no such model"):
        thread.start().result(SOON_S)
    thread.stop()


def test_a_thread_that_is_stopped_while_it_loads_ends_after_loading_without_a_step() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def load() -> CountingEngine:
        loading.set()
        go_on.wait(SOON_S)
        return CountingEngine()

    thread = EngineThread(load, name="engine-that-loads-slowly")
    loaded = thread.start()
    assert loading.wait(SOON_S)
    thread.stop()
    go_on.set()
    engine = loaded.result(SOON_S)
    engine.thread.join(SOON_S)
    assert not engine.thread.is_alive()
    assert engine.steps == 0
