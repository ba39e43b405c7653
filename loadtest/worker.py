"""One process of the load: sends its part of a segment's requests."""

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import count, cycle, islice
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from loadtest.caller import Call
from loadtest.counters import Counters
from loadtest.level import poisson_arrivals, user_delays
from loadtest.record import RequestRecord, Status
from loadtest.segment import Planned, Segment
from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceStub
from sybil_engine.serving.channels import CHANNEL_OPTIONS

if TYPE_CHECKING:
    from loadtest.counters import SharedNumbers

# Replicas that share a port get connections, not requests, from the kernel, which spreads them at random: with one
# connection all load would meet one replica, with eight it is unlikely that any is left out.
_MOST_CONNECTIONS = 8
_OWN_CONNECTION = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
_RETURN_S = 3.0
_PAUSE_S = 0.1


@dataclass(slots=True)
class Part:
    """What one worker did of a segment.

    Attributes:
        full_until_ns: when its load first fell below the level, for there was nothing left to send.
        busy: share of a core that this process used.
        lost: the server went away and did not come back.
    """

    records: list[RequestRecord] = field(default_factory=list)
    full_until_ns: int = 0
    busy: float = 0.0
    lost: bool = False


def work(connection: Connection, numbers: "SharedNumbers", worker: int) -> None:
    """The worker's main function: says None when it is ready, then works on one segment after another, until EOF."""
    # The main process ends its workers; Ctrl-C reaches every process of the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(None)
    while True:
        try:
            segment, workers = connection.recv()
        except EOFError:
            return
        asyncio.run(_work_on(segment, connection, worker, workers, Counters(numbers)))


async def _work_on(segment: Segment, connection: Connection, worker: int, workers: int, counters: Counters) -> None:
    """Connect and say None, hear when to start, send, and answer with the Part."""
    async with AsyncExitStack() as stack:
        users = segment.level.concurrency or _MOST_CONNECTIONS
        channels = [
            await stack.enter_async_context(_channel(segment.address)) for _ in range(min(users, _MOST_CONNECTIONS))
        ]
        there = await asyncio.gather(*map(_connects, channels))
        connection.send(None)
        segment = replace(segment, start_ns=await asyncio.to_thread(connection.recv))
        sender = Sender(segment, worker, workers, channels, counters)
        connection.send(await sender.run(lost=not all(there)))


class Sender:
    """Sends every n-th request of a segment, over each of the channels in turn."""

    def __init__(
        self, segment: Segment, worker: int, workers: int, channels: Sequence[grpc.aio.Channel], counters: Counters
    ) -> None:
        self._segment, self._worker, self._workers, self._counters = segment, worker, workers, counters
        indices = count() if segment.requests is None else range(segment.requests)
        self._indices = islice(indices, worker, None, workers)
        self._channels = cycle(channels)
        self._part = Part()

    async def run(self, *, lost: bool) -> Part:
        """Send them all and wait for their ends.

        Args:
            lost: the server is not there, so nothing is sent.
        """
        self._part.lost = lost
        await _sleep_until(self._segment.start_ns)
        began_ns, began_cpu_ns = time.monotonic_ns(), time.process_time_ns()
        concurrency = self._segment.level.concurrency
        await (self._open_loop() if concurrency is None else self._closed_loop(concurrency))
        self._part.busy = (time.process_time_ns() - began_cpu_ns) / max(1, time.monotonic_ns() - began_ns)
        return self._part

    async def _closed_loop(self, concurrency: int) -> None:
        delays_s = user_delays(concurrency, self._segment.ramp_s)[self._worker :: self._workers]
        async with asyncio.TaskGroup() as group:
            for delay_s in delays_s:
                group.create_task(self._user(self._segment.start_ns + int(delay_s * 1e9)))

    async def _user(self, first_ns: int) -> None:
        """Send one request after another."""
        await _sleep_until(first_ns)
        for index in self._indices:
            if self._is_over():
                break
            planned = await self._planned(index)
            record = await self._send(planned, time.monotonic_ns())
            if record.status in (Status.REFUSED, Status.FAILED):
                await asyncio.sleep(_PAUSE_S)
        self._part.full_until_ns = self._part.full_until_ns or time.monotonic_ns()

    async def _open_loop(self) -> None:
        segment = self._segment
        arrivals_s = poisson_arrivals(
            segment.level.rate or 0.0, segment.ramp_s, f"{segment.workload.seed} {segment.stage}"
        )
        own_s = islice(arrivals_s, self._worker, None, self._workers)
        async with asyncio.TaskGroup() as group:
            for index, due_s in zip(self._indices, own_s, strict=False):
                due_ns = segment.start_ns + int(due_s * 1e9)
                if segment.stop_ns is not None and due_ns > segment.stop_ns:
                    await _sleep_until(segment.stop_ns)
                    break
                planned = await self._planned(index)
                await _sleep_until(due_ns)
                if self._part.lost:
                    break
                group.create_task(self._send(planned, due_ns))
            self._part.full_until_ns = self._part.full_until_ns or time.monotonic_ns()

    def _is_over(self) -> bool:
        stop_ns = self._segment.stop_ns
        return self._part.lost or (stop_ns is not None and time.monotonic_ns() >= stop_ns)

    async def _planned(self, index: int) -> Planned:
        """A request, made in a thread: the event loop that notes when tokens come does not wait for a tokenizer."""
        return await asyncio.to_thread(self._segment.planned, index)

    async def _send(self, planned: Planned, due_ns: int) -> RequestRecord:
        channel = next(self._channels)
        call = Call(planned, due_ns, self._counters)
        record = await call.run(GenerationServiceStub(channel), self._segment.deadline_s)
        self._part.records.append(record)
        if call.lost and not await _connects(channel):
            self._part.lost = True
            self._part.full_until_ns = self._part.full_until_ns or record.end_ns
        return record


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=_OWN_CONNECTION)


async def _connects(channel: grpc.aio.Channel) -> bool:
    """Whether the server is there, or comes back within a few seconds."""
    try:
        await asyncio.wait_for(channel.channel_ready(), _RETURN_S)
    except TimeoutError:
        return False
    return True


async def _sleep_until(time_ns: int) -> None:
    await asyncio.sleep(max(0, time_ns - time.monotonic_ns()) / 1e9)
