"""The worker processes of a load test."""

import asyncio
import multiprocessing
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from loadtest.counters import shared_numbers, totals
from loadtest.segment import Segment
from loadtest.worker import Part, work
from sybil_engine.core.errors import SybilError

if TYPE_CHECKING:
    from loadtest.counters import SharedNumbers

# Long enough for workers to open their connections before the load starts.
_LEAD_NS = 200_000_000
# Above this share of a core, the client's own Python would soften the load.
BUSY_LIMIT = 0.7


class Crew:
    """Processes that send, so that what this process draws does not disturb what they measure.

    Args:
        grows: one is added when one was too busy, up to a process a core.
    """

    def __init__(self, grows: bool) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[BaseProcess, Connection, SharedNumbers]] = []
        self._grows = grows

    async def add(self, count: int) -> None:
        """Start processes, and wait until they can send."""
        for _ in range(count):
            ours, theirs = self._context.Pipe()
            numbers = shared_numbers(self._context)
            process = self._context.Process(target=work, args=(theirs, numbers, len(self._workers)), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours, numbers))
        await asyncio.gather(*(asyncio.to_thread(_received, each[1]) for each in self._workers[-count:]))

    def totals(self) -> dict[str, int]:
        """What they have counted in this segment so far, by name."""
        return totals(numbers for _, _, numbers in self._workers)

    async def send(self, segment: Segment) -> tuple[Segment, list[Part]]:
        """Let all of them send their part of a segment; the segment comes back with the time it started.

        Raises:
            SybilError: one of the processes ended.
        """
        segment = replace(segment, start_ns=time.monotonic_ns() + _LEAD_NS)
        # A worker without a user of its own would send nothing.
        workers = self._workers[: segment.level.concurrency]
        for _, _, numbers in self._workers:
            numbers[:] = [0] * len(numbers)
        for _, connection, _ in workers:
            connection.send((segment, len(workers)))
        parts: list[Part] = await asyncio.gather(*(asyncio.to_thread(_received, each[1]) for each in workers))
        room = len(workers) == len(self._workers) < (os.cpu_count() or 1)
        if self._grows and room and max(part.busy for part in parts) > BUSY_LIMIT:
            await self.add(1)
        return segment, parts

    def end(self) -> None:
        """End every process; what it was sending is cancelled."""
        for process, _, _ in self._workers:
            process.terminate()
        for process, connection, _ in self._workers:
            process.join()
            connection.close()


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


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError as error:
        raise SybilError("a process of the load test ended in the middle of its work; run it again") from error
