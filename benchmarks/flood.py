"""`python -m benchmarks.flood`: what floods, slow readers and cancellations do to others, and what they leave behind.

Real services on loopback; a few streams run beside. `blocks` floods a session of the verifier with blocks of 100,000
tokens, `small` with as many legal ones as it takes; `readers` opens streams that nobody reads; `cancellations` leaves
requests at random moments. Tokens are compared with the same requests' on a quiet engine.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import astuple, dataclass
from functools import partial

import grpc

from benchmarks.prompts import read_prompts
from benchmarks.stack import Footprint, RunningStack, running_stack
from sybil_engine.client import GenerationClient, connected
from sybil_engine.core.errors import SlowReader, SybilError
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import Speculation
from sybil_engine.serving.channels import CHANNEL_OPTIONS

ARMS = ("blocks", "small", "readers", "cancellations")
MOST_GROWTH_MIB = 64.0
MOST_PAUSE_S = 0.2
_READERS = 4
_SLOW_READER_S = 2.0
_AT_ONCE = 16
_LONGEST_LIFE_S = 0.3
# A reader that does not read is noticed once this much is on its way.
_SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 1024),)


@dataclass(frozen=True, slots=True)
class Followed:
    """One stream: its tokens, and its longest pause after the first ones."""

    token_ids: tuple[int, ...]
    longest_pause_s: float


async def follow(client: GenerationClient, request: GenerationRequest, end: asyncio.Event) -> Followed:
    """Read one stream until it ends, or until it should."""
    token_ids, longest_s, last_s = list[int](), 0.0, 0.0
    async with aclosing(client.generate(request)) as deltas:
        async for delta in deltas:
            now_s = time.perf_counter()
            longest_s = max(longest_s, now_s - last_s) if last_s else 0.0
            last_s = now_s
            token_ids += [token.token_id for token in delta.tokens]
            if end.is_set():
                break
    return Followed(tuple(token_ids), longest_s)


@asynccontextmanager
async def streams_beside(
    client: GenerationClient, requests: Sequence[GenerationRequest]
) -> AsyncIterator[list[list[Followed]]]:
    """Run the requests again and again while the block runs; yields what they were, filled in at its end."""
    end, followed = asyncio.Event(), list[list[Followed]]()

    async def keep_following(request: GenerationRequest) -> list[Followed]:
        runs = []
        while not end.is_set():
            runs.append(await follow(client, request, end))
        return runs

    running = asyncio.gather(*map(keep_following, requests))
    await asyncio.sleep(1.0)
    try:
        yield followed
    finally:
        end.set()
        followed += await running


class Beside:
    """The streams that run beside, and what they are when nothing else happens."""

    def __init__(self, stack: RunningStack, client: GenerationClient, requests: Sequence[GenerationRequest]) -> None:
        self._stack = stack
        self._client = client
        self._requests = requests
        self._quiet: list[Followed] = []

    async def measure_quiet(self) -> None:
        """Run them alone."""
        never = asyncio.Event()
        self._quiet = list(await asyncio.gather(*(follow(self._client, each, never) for each in self._requests)))
        print(f"quiet: longest pause {1e3 * max(each.longest_pause_s for each in self._quiet):.0f} ms", flush=True)

    async def disturbed(self, arm: str, disturb: Callable[[], Awaitable[tuple[str, bool]]]) -> bool:
        """Run them while something disturbs; print what became of them, and return whether all goals were met.

        Args:
            disturb: returns what came of it, in words, and whether that is as it must be.
        """
        before_mib, peaks = self._stack.verifier.memory_mib, [0.0]
        sampling = asyncio.create_task(self._sample_memory(peaks))
        async with streams_beside(self._client, self._requests) as followed:
            said, met = await disturb()
        sampling.cancel()
        growth_mib = max(peaks) - before_mib
        pause_s = max(run.longest_pause_s for runs in followed for run in runs)
        differing = sum(
            run.token_ids != quiet.token_ids[: len(run.token_ids)]
            for runs, quiet in zip(followed, self._quiet, strict=True)
            for run in runs
        )
        print(
            f"{arm}: {said}; the verifier grew by {growth_mib:.0f} MiB, longest pause of another stream "
            f"{1e3 * pause_s:.0f} ms, {differing} streams with differing tokens",
            flush=True,
        )
        return met and growth_mib <= MOST_GROWTH_MIB and pause_s <= MOST_PAUSE_S and not differing

    async def _sample_memory(self, peaks: list[float]) -> None:
        while True:
            peaks.append(self._stack.verifier.memory_mib)
            await asyncio.sleep(0.02)


async def flood(stack: RunningStack, kind: str, seconds: float) -> tuple[str, bool]:
    """Flood the verifier from another process; see `Beside.disturbed`."""
    command = (sys.executable, "-m", "benchmarks.flooding", stack.verifier.address, kind, str(seconds))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    printed, _ = await process.communicate()
    said = json.loads(printed)
    return f"{said['messages']} messages, {said['refusals']} sessions refused ({said['reason']})", True


async def open_slow_readers(stack: RunningStack, request: GenerationRequest) -> tuple[str, bool]:
    """Open streams, read a token of each, and no more until they must have ended; see `Beside.disturbed`."""
    options = (*CHANNEL_OPTIONS, *_SMALL_WINDOW)
    async with grpc.aio.insecure_channel(stack.coordinator.address, options=options) as channel:
        client = GenerationClient(stack.coordinator.address, channel)

        async def read_slowly() -> bool:
            try:
                async with aclosing(client.generate(request)) as deltas:
                    await anext(deltas)
                    await asyncio.sleep(3 * _SLOW_READER_S)
                    async for _ in deltas:
                        pass
            except SlowReader:
                return True
            return False

        ended = await asyncio.gather(*(read_slowly() for _ in range(_READERS)))
    return f"{sum(ended)} of {_READERS} streams that nobody read ended with a status", all(ended)


async def cancel_many(client: GenerationClient, requests: Sequence[GenerationRequest], count: int, seed: int) -> int:
    """Leave requests at random moments; returns how many had failed."""
    rng, ways = random.Random(seed), list(Speculation)
    lives = iter([(rng.uniform(0, _LONGEST_LIFE_S), rng.choice(requests), rng.choice(ways)) for _ in range(count)])
    failed = 0

    async def keep_leaving() -> None:
        nonlocal failed
        for life_s, request, way in lives:
            chosen = GenerationRequest(request.prompt, seed=seed, max_tokens=request.max_tokens, speculation=way)
            try:
                async with asyncio.timeout(life_s), aclosing(client.generate(chosen)) as deltas:
                    async for _ in deltas:
                        pass
            except TimeoutError:
                pass
            except SybilError:
                failed += 1

    await asyncio.gather(*(keep_leaving() for _ in range(_AT_ONCE)))
    return failed


async def measure_cancellations(
    stack: RunningStack, client: GenerationClient, requests: Sequence[GenerationRequest], count: int, seed: int
) -> bool:
    """Cancel many, and print what every process held before and after; returns whether nothing was left."""
    # Whatever is made once is there afterwards.
    await cancel_many(client, requests, 10 * _AT_ONCE, seed + 1)
    before = await stack.settled(_idle)
    failed = await cancel_many(client, requests, count, seed)
    after = await stack.settled(_idle)
    print(f"cancellations: {count}, {failed} requests failed", flush=True)
    names = ("pages", "sessions", "tasks", "descriptors", "MiB")
    nothing_left = not failed
    for process, old, new in zip(stack.processes, before, after, strict=True):
        pairs = zip(names, astuple(old), astuple(new), strict=True)
        print(f"  {process.kind}: " + ", ".join(f"{name} {one:.0f} -> {other:.0f}" for name, one, other in pairs))
        held = all(other <= one for one, other in zip(astuple(old)[:4], astuple(new)[:4], strict=True))
        nothing_left &= held and new.memory_mib - old.memory_mib <= MOST_GROWTH_MIB
    return nothing_left


def _idle(footprints: Sequence[Footprint]) -> bool:
    return not any(each.sessions or each.pages for each in footprints)


async def run(arguments: argparse.Namespace) -> int:
    """Run the arms; returns the exit status."""
    flags = ("--slow-reader-s", str(_SLOW_READER_S))
    prompts = read_prompts("", arguments.streams)
    requests = [
        GenerationRequest(
            each.prompt, seed=arguments.seed, max_tokens=512, ignore_end_tokens=True, speculation=Speculation.OFF
        )
        for each in prompts
    ]
    met = True
    async with running_stack(flags, flags, flags) as stack, connected(stack.coordinator.address) as client:
        beside = Beside(stack, client, requests)
        await beside.measure_quiet()
        for kind in ("blocks", "small"):
            if kind in arguments.arms:
                met &= await beside.disturbed(kind, partial(flood, stack, kind, arguments.seconds))
        if "readers" in arguments.arms:
            met &= await beside.disturbed("readers", partial(open_slow_readers, stack, requests[0]))
        if "cancellations" in arguments.arms:
            met &= await measure_cancellations(stack, client, requests, arguments.cancellations, arguments.seed)
    print("all goals met" if met else "a goal was missed")
    return 0 if met else 1


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each flood")
    parser.add_argument("--streams", type=int, default=4, help="that run beside")
    parser.add_argument("--cancellations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7, help="of the streams, and of the moments of cancelling")
    arguments = parser.parse_args(argv)
    if arguments.seconds <= 0 or arguments.streams < 1 or arguments.cancellations < 1:
        parser.error("--seconds, --streams and --cancellations must be above 0")
    return asyncio.run(run(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
