"""`python -m benchmarks.checking ADDRESS...`: asks services for their health, for `benchmarks.crowd`.

From a process of its own, so that what it measures is the services' delay. It ends when its stdin is closed, and prints
JSON: for each address the longest time to an answer and the time of 99 % of them, in milliseconds.
"""

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_PAUSE_S = 0.05


async def check(address: str, end: asyncio.Event) -> list[float]:
    """Ask again and again until the end; returns how long each answer took, in milliseconds."""
    times_ms: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        # Connecting is not what is measured.
        await stub.Check(health_pb2.HealthCheckRequest())
        # Once at least, however quick the crowd is.
        while not (times_ms and end.is_set()):
            start_s = time.perf_counter()
            await stub.Check(health_pb2.HealthCheckRequest())
            times_ms.append(1e3 * (time.perf_counter() - start_s))
            await asyncio.sleep(_PAUSE_S)
    return times_ms


async def run(addresses: Sequence[str]) -> None:
    end = asyncio.Event()
    checking = asyncio.gather(*(check(address, end) for address in addresses))
    await asyncio.to_thread(_wait_for_the_end)
    end.set()
    said = {
        address: {"longest_ms": max(times_ms), "p99_ms": sorted(times_ms)[math.ceil(0.99 * len(times_ms)) - 1]}
        for address, times_ms in zip(addresses, await checking, strict=True)
    }
    print(json.dumps(said), flush=True)


def _wait_for_the_end() -> None:
    while os.read(0, 4096):
        pass


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1:]))
