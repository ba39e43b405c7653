"""`python -m benchmarks.deadlines`: of a crowd of requests with one deadline, how many are done in time?

A coordinator should complete as many as it can in that time, and refuse the others at once. How many it can is measured
first: the load rises, and the best rate counts among the loads at which requests still end within the deadline. Every
request that ends is compared with the same request on a quiet engine.
"""

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.plan import Plan
from benchmarks.prompts import read_prompts
from benchmarks.services import running_services
from benchmarks.settings import BenchSettings
from sybil_engine.client import GenerationClient, connected
from sybil_engine.core.completion import Completion
from sybil_engine.core.errors import Exhausted, SybilError
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import Speculation

_LOADS = (2, 4, 8, 16, 32)
_STAGE_S = 8.0


@dataclass(frozen=True, slots=True)
class Result:
    """How one request of the crowd ended.

    Attributes:
        how: done, refused, late, or failed.
        after_s: when, from its start.
        token_ids: of its completion, if it is done.
        reason: why it was refused, or failed.
    """

    how: str
    after_s: float
    token_ids: tuple[int, ...] = ()
    reason: str = ""


async def complete(client: GenerationClient, request: GenerationRequest, timeout_s: float | None = None) -> Completion:
    return Completion.joined([delta async for delta in client.generate(request, timeout_s)])


async def ask(client: GenerationClient, request: GenerationRequest, deadline_s: float) -> Result:
    """Send one request of the crowd, and see how it ends."""
    start_s = time.perf_counter()
    try:
        token_ids = (await complete(client, request, deadline_s)).token_ids
        return Result("done", time.perf_counter() - start_s, token_ids)
    except TimeoutError:
        return Result("late", time.perf_counter() - start_s)
    except SybilError as error:
        how = "refused" if isinstance(error, Exhausted) else "failed"
        return Result(how, time.perf_counter() - start_s, reason=str(error))


async def measure_load(
    client: GenerationClient, requests: Sequence[GenerationRequest], concurrency: int
) -> tuple[float, float]:
    """Tokens per second while as many requests run, and the median time of a request in seconds."""
    end_s, tokens, times_s = time.perf_counter() + _STAGE_S, 0, list[float]()

    async def keep_asking(first: int) -> None:
        nonlocal tokens
        number = first
        while (start_s := time.perf_counter()) < end_s:
            async for delta in client.generate(requests[number % len(requests)]):
                # The first half of the time is for the load to settle.
                tokens += len(delta.tokens) if end_s - _STAGE_S / 2 <= time.perf_counter() < end_s else 0
            times_s.append(time.perf_counter() - start_s)
            number += concurrency

    await asyncio.gather(*map(keep_asking, range(concurrency)))
    return tokens / (_STAGE_S / 2), median(times_s)


async def best_rate(client: GenerationClient, requests: Sequence[GenerationRequest], deadline_s: float) -> float:
    """The best rate among the loads at which a request ends within the deadline, in tokens per second."""
    best = 0.0
    for concurrency in _LOADS:
        rate, took_s = await measure_load(client, requests, concurrency)
        print(f"{concurrency:3} at once: {rate:6.0f} tokens/s, {took_s:.2f} s for a request", flush=True)
        if took_s <= deadline_s:
            best = max(best, rate)
    return best


async def measure(address: str, arguments: argparse.Namespace) -> int:
    """Measure a running engine; returns the exit status."""
    speculation = Speculation(arguments.speculation)
    requests = [
        GenerationRequest(prompt.prompt, seed=7, max_tokens=arguments.max_tokens, speculation=speculation)
        for prompt in read_prompts("", arguments.prompts)
    ]
    async with connected(address) as client:
        quiet = [(await complete(client, request)).token_ids for request in requests]
        rate = await best_rate(client, requests, arguments.deadline_s)
        # Many end before max_tokens: what counts is how long they are.
        could = rate * arguments.deadline_s / (sum(map(len, quiet)) / len(quiet))
        crowd = [requests[number % len(requests)] for number in range(arguments.requests)]
        results = await asyncio.gather(*(ask(client, request, arguments.deadline_s) for request in crowd))
    counts = {how: sum(each.how == how for each in results) for how in ("done", "refused", "late", "failed")}
    longest_s = {how: max((each.after_s for each in results if each.how == how), default=math.nan) for how in counts}
    differing = sum(
        each.how == "done" and each.token_ids != quiet[number % len(quiet)] for number, each in enumerate(results)
    )
    print(", ".join(f"{count} {how}" for how, count in counts.items()))
    for how in ("refused", "failed"):
        for reason in [each.reason for each in results if each.how == how][:1]:
            print(f"one of those {how}: {reason}")
    print(f"could have been done: {could:.1f} ({counts['done'] / min(could, len(crowd)):.2f} of them were)")
    print(f"longest time to a refusal: {1e3 * longest_s['refused']:.0f} ms, to a completion: {longest_s['done']:.2f} s")
    print(f"completions that differ from quiet ones: {differing}")
    return 1 if differing or counts["failed"] else 0


async def run(arguments: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        address = arguments.address
        if not address:
            plan = Plan.of(BenchSettings(peers=("none",)))
            services = await stack.enter_async_context(running_services(plan, lambda line: None))
            address = services.coordinator
        return await measure(address, arguments)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deadlines", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--address", default="", help="a running coordinator; left out: one is started")
    parser.add_argument("--requests", type=int, default=100, help="sent at once")
    parser.add_argument("--deadline-s", type=float, default=3.0, help="of each, in seconds")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=12, help="built-in prompts to use")
    parser.add_argument("--speculation", choices=[each.value for each in Speculation], default="off")
    return asyncio.run(run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
