"""A proposer on a thread of its own, so that one that hangs holds nobody up."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.proposer import Continuation, Proposer


class Aside(Proposer):
    """Hands every call to a thread, and waits a moment for the answer. While one is missing, nothing more is asked.

    Args:
        make: makes the proposer, on its thread.
        patience_s: how long a caller waits.
    """

    _MOST_WAITING = 1024

    def __init__(
        self, make: Callable[[SessionOpen], Proposer], opening: SessionOpen, patience_s: float = 0.005
    ) -> None:
        self._make = make
        self._opening = opening
        self._patience_s = patience_s
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[Proposer], Any], bool] | None] = queue.SimpleQueue()
        self._missing: Future[Sequence[Continuation]] | None = None
        # A daemon: a proposer that hangs must not keep the process from ending.
        threading.Thread(target=self._run, name="proposer", daemon=True).start()

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        if self._calls.qsize() < self._MOST_WAITING:
            self._call(lambda proposer: proposer.follow(token_ids), asks=False)

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """See `Proposer.continuations`.

        Raises:
            TimeoutError: it did not answer in time; its answer is dropped.
        """
        if self._missing and not self._missing.done():
            return ()
        self._missing = self._call(lambda proposer: tuple(proposer.continuations(path)))
        try:
            return self._missing.result(self._patience_s)
        except TimeoutError:
            raise TimeoutError("the proposer has not answered in time; its guess is dropped") from None

    def close(self) -> None:
        """See `Proposer.close`; does not wait for it."""
        self._call(lambda proposer: proposer.close())
        self._calls.put(None)

    def _call(self, function: Callable[[Proposer], Any], *, asks: bool = True) -> "Future[Any]":
        future: Future[Any] = Future()
        self._calls.put((future, function, asks))
        return future

    def _run(self) -> None:
        made: Proposer | Exception
        try:
            made = self._make(self._opening)
        except Exception as error:  # noqa: BLE001 - raised where its first answer is awaited
            made = error
        while call := self._calls.get():
            future, function, asks = call
            try:
                if isinstance(made, Exception):
                    raise made
                future.set_result(function(made))
            except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
                future.set_exception(error)
                if not asks:
                    # It has missed tokens, and can only guess wrong from now on.
                    made = error
