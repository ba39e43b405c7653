"""The one thread that owns a model. The event loop hands it work and never waits for a pass."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

logger = logging.getLogger(__name__)

ENGINE_THREAD = "engine-"
"""What the names of these threads begin with."""

# A thread cannot sleep for years at a time; it sleeps again.
_LONGEST_SLEEP_S = 60.0
# Posted work is done for at most this long before the next step; the rest waits for the turn after it.
_LONGEST_TURN_S = 0.005

Deliver: TypeAlias = Callable[[Any], None]
"""Takes a session's message."""


class Engine(Protocol):
    """What an engine thread runs. Called on that thread only, so it needs no locks."""

    def step(self) -> float | None:
        """Run the passes that are due.

        Returns:
            Seconds until the next step is due, 0 for at once; None if nothing is due until new work arrives.
        """

    def fail(self, error: Exception) -> None:
        """End every session: a step raised `error`."""


EngineType = TypeVar("EngineType", bound=Engine)
Result = TypeVar("Result")


class EngineThread(Generic[EngineType]):
    """Loads an engine, then runs its steps and, between them, the work posted from other threads.

    Args:
        load: makes the engine; called on the thread, so that no other thread touches the model.
        delayed: wraps functions that take a session's messages, in and out, to emulate a link.
    """

    def __init__(
        self,
        load: Callable[[], EngineType],
        name: str,
        delayed: Callable[[Deliver], Deliver] = lambda deliver: deliver,
    ) -> None:
        self._load = load
        self.delayed = delayed
        self._inbox: SimpleQueue[Callable[[EngineType], object]] = SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=ENGINE_THREAD + name, daemon=True)
        self._loaded: Future[EngineType] = Future()

    def start(self) -> "Future[EngineType]":
        """Start loading.

        Returns:
            The engine once it is loaded, for reading its description; or what loading raised.
        """
        self._thread.start()
        return self._loaded

    def stop(self) -> None:
        """Let the current step end, then end the thread. A thread that is still loading keeps running, as a daemon."""
        self._stopping = True
        self.post(lambda _: None)
        if self._loaded.done():
            self._thread.join()

    def post(self, work: Callable[[EngineType], object]) -> None:
        """Run `work` on the thread between two steps, after what was posted before it."""
        self._inbox.put(work)

    def submit(self, work: Callable[[EngineType], Result]) -> "Future[Result]":
        """Like `post`; the future gets the result, or what `work` raised."""
        future: Future[Result] = Future()

        def run(engine: EngineType) -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(engine))
                except Exception as error:  # noqa: BLE001 - raised where the future is awaited
                    future.set_exception(error)

        self.post(run)
        return future

    def _run(self) -> None:
        try:
            engine = self._load()
        except BaseException as error:  # noqa: BLE001 - raised where the engine is awaited
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(engine)
        delay_s: float | None = 0
        while not self._stopping:
            delay_s = self._turn(engine, delay_s)

    def _turn(self, engine: EngineType, delay_s: float | None) -> float | None:
        """Wait up to `delay_s` for work, do what is there as far as the turn lasts, and run a step."""
        try:
            with suppress(Empty):
                work = self._inbox.get(timeout=None if delay_s is None else min(delay_s, _LONGEST_SLEEP_S))
                end_s = time.monotonic() + _LONGEST_TURN_S
                work(engine)
                while time.monotonic() < end_s:
                    self._inbox.get_nowait()(engine)
            return engine.step()
        except Exception as error:
            logger.exception("a step failed; its sessions end")
            engine.fail(error)
            return 0
