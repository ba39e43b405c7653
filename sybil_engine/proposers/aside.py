"""A proposer on another thread, so that one that hangs holds nobody up."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.proposer import MOST_CONTINUATIONS, Continuation, Proposer


class ProposerThread:
    """Runs calls one after the other, those of all sessions that use one kind of proposer.

    One thread a kind: if a call never returns, this kind guesses no more, and no further thread is lost to it.
    """

    _MOST_WAITING = 1024

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._started = False

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Have a function called.

        Raises:
            TimeoutError: too many calls are waiting.
        """
        if self._calls.qsize() >= self._MOST_WAITING:
            raise TimeoutError("the proposer does not keep up; its guesses are left out")
        if not self._started:
            self._started = True
            # A daemon: a proposer that hangs must not keep the process from ending.
            threading.Thread(target=self._run, name="proposer", daemon=True).start()
        future: Future[Any] = Future()
        self._calls.put((future, function))
        return future

    def _run(self) -> None:
        while True:
            future, function = self._calls.get()
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
                future.set_exception(error)


class Aside(Proposer):
    """Hands every call to the thread of its kind, and waits a moment for answers. It asks no more while one is missing.

    Args:
        make: makes the proposer, on that thread.
        patience_s: how long a caller waits.
    """

    def __init__(
        self,
        make: Callable[[SessionOpen], Proposer],
        thread: ProposerThread,
        opening: SessionOpen,
        patience_s: float = 0.005,
    ) -> None:
        self._thread = thread
        self._patience_s = patience_s
        self._missing: Future[Sequence[Continuation]] | None = None
        # Both are used on the thread only. A proposer that has missed tokens can only guess wrong from then on.
        self._proposer: Proposer | None = None
        self._broken: Exception | None = None
        thread.call(lambda: self._start(make, opening))

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        self._thread.call(lambda: self._follow(token_ids))

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """See `Proposer.continuations`.

        Raises:
            TimeoutError: it did not answer in time; its answer is dropped.
        """
        if self._missing and not self._missing.done():
            return ()
        self._missing = self._thread.call(lambda: self._continuations(path))
        try:
            return self._missing.result(self._patience_s)
        except TimeoutError:
            raise TimeoutError("the proposer has not answered in time; its guess is dropped") from None

    def close(self) -> None:
        """See `Proposer.close`; does not wait for it."""
        self._thread.call(lambda: self._unbroken().close())

    def _start(self, make: Callable[[SessionOpen], Proposer], opening: SessionOpen) -> None:
        try:
            self._proposer = make(opening)
        except Exception as error:  # noqa: BLE001 - raised where its first answer is awaited
            self._broken = error

    def _follow(self, token_ids: Sequence[int]) -> None:
        try:
            self._unbroken().follow(token_ids)
        except Exception as error:  # noqa: BLE001 - raised where its next answer is awaited
            self._broken = error

    def _continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        # There may be no end of them.
        return tuple(islice(self._unbroken().continuations(path), MOST_CONTINUATIONS))

    def _unbroken(self) -> Proposer:
        if self._broken:
            raise self._broken
        assert self._proposer
        return self._proposer
