"""The worker processes of a load test."""

import asyncio
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from loadtest.counters import shared_numbers, totals
from loadtest.segment import Segment
from loadtest.worker import Part, work
from sybil_engine.core.errors import SybilError

if TYPE_CHECKING:
    from loadtest.counters import SharedNumbers

# For the word that it starts to reach every process.
_LEAD_NS = 20_000_000
# Above this share of a core, the client's own Python would soften the load.
BUSY_LIMIT = 0.7


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process that sends.

    Attributes:
        connection: this end of the pipe to it.
        numbers: what it counts.
    """

    process: BaseProcess
    connection: Connection
    numbers: "SharedNumbers"

    async def answer(self) -> Any:
        """What it says next.

        Raises:
            SybilError: it ended.
        """
        try:
            return await asyncio.to_thread(self.connection.recv)
        except EOFError as error:
            raise SybilError("a process of the load test ended in the middle of its work; run it again") from error


class Crew:
    """Processes that send, so that what this process draws does not disturb what they measure.

    Args:
        grows: one is added when one was too busy, up to a process a core.
    """

    def __init__(self, grows: bool) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._grows = grows

    async def add(self, count: int) -> None:
        """Start processes, and wait until they can send."""
        for _ in range(count):
            ours, theirs = self._context.Pipe()
            numbers = shared_numbers(self._context)
            process = self._context.Process(target=work, args=(theirs, numbers, len(self._workers)), daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours, numbers))
        await asyncio.gather(*(worker.answer() for worker in self._workers[-count:]))

    def totals(self) -> dict[str, int]:
        """What they have counted in this segment so far, by name."""
        return totals(worker.numbers for worker in self._workers)

    async def send(self, segment: Segment) -> tuple[Segment, list[Part]]:
        """Let all of them send their part of a segment; the segment comes back with the time it started.

        Raises:
            SybilError: one of the processes ended.
        """
        for worker in self._workers:
            worker.numbers[:] = [0] * len(worker.numbers)
        # A worker without a user of its own would send nothing.
        workers = self._workers[: segment.level.concurrency]
        await self._told(workers, (segment, len(workers)))
        start_ns = time.monotonic_ns() + _LEAD_NS
        parts: list[Part] = await self._told(workers, start_ns)
        room = len(workers) == len(self._workers) < (os.cpu_count() or 1)
        if self._grows and room and max(part.busy for part in parts) > BUSY_LIMIT:
            await self.add(1)
        return replace(segment, start_ns=start_ns), parts

    async def _told(self, workers: Sequence[_Worker], words: Any) -> list[Any]:
        """Tell workers something; returns what they answer."""
        for worker in workers:
            worker.connection.send(words)
        return await asyncio.gather(*(worker.answer() for worker in workers))

    def end(self) -> None:
        """End every process; what it was sending is cancelled."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()


@asynccontextmanager
async def running_crew(processes: int | None) -> AsyncIterator[Crew]:
    """A crew that ends with the block.

    Args:
        processes: how many; None: one, and more when they are needed.
    """
    crew = Crew(grows=processes is None)
    try:
        await crew.add(processes or 1)
        yield crew
    finally:
        crew.end()
