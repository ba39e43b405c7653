"""`python -m benchmarks.deadlines`: of a crowd of requests with one deadline, how many are done in time?

A coordinator should complete as many as it can in that time, and refuse the others at once. How many it can is measured
first: the load rises, and the best rate counts among the loads at which requests still end within the deadline. Every
request that ends is compared with the same request on a quiet engine. The load is the load test's.
"""

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import mean, median

from benchmarks.plan import Plan
from benchmarks.prompts import read_prompts
from benchmarks.services import running_services
from benchmarks.settings import BenchSettings
from loadtest.agreement import Agreement
from loadtest.crew import Crew, running_crew
from loadtest.level import Level
from loadtest.measured import MeasuredSegment
from loadtest.record import RequestRecord, Status
from loadtest.segment import Segment
from loadtest.workload import FilePrompt, Workload
from sybil_engine.core.types import Speculation

_LOADS = (2, 4, 8, 16, 32)
_STAGE_S = 8.0


@dataclass(frozen=True, slots=True)
class DeadlineCrowd:
    """Requests that are sent at once, each with the same deadline, and the loads that say how many could be done."""

    address: str
    workload: Workload
    speculation: Speculation
    requests: int
    deadline_s: float

    def quiet(self) -> Segment:
        """The same requests, one after another."""
        return Segment(self.address, self.workload, self.speculation, Level(concurrency=1), 0, "crowd", self.requests)

    def at_once(self) -> Segment:
        level = Level(concurrency=self.requests)
        return Segment(
            *(self.address, self.workload, self.speculation, level, 0, "crowd", self.requests),
            deadline_s=self.deadline_s,
        )

    def load(self, users: int) -> Segment:
        """A closed loop without deadlines, of which the first half of the time is for the load to settle."""
        level = Level(concurrency=users)
        return Segment(
            *(self.address, self.workload, self.speculation, level, 0, str(level)),
            duration_s=_STAGE_S,
            ramp_s=_STAGE_S / 2,
        )


async def best_rate(crew: Crew, crowd: DeadlineCrowd) -> float:
    """The best rate among the loads at which a request ends within the deadline, in tokens per second."""
    best = 0.0
    for users in _LOADS:
        measured = MeasuredSegment.of(*await crew.send(crowd.load(users)))
        took_s = median([record.total_ns / 1e9 for record in measured.counted] or [math.inf])
        rate = measured.tokens_per_second
        print(f"{users:3} at once: {rate:6.0f} tokens/s, {took_s:.2f} s for a request", flush=True)
        if took_s <= crowd.deadline_s:
            best = max(best, rate)
    return best


async def measure(crowd: DeadlineCrowd) -> int:
    """Measure a running engine; returns the exit status."""
    async with running_crew(None) as crew:
        quiet = MeasuredSegment.of(*await crew.send(crowd.quiet()))
        rate = await best_rate(crew, crowd)
        at_once = MeasuredSegment.of(*await crew.send(crowd.at_once()))
    # Many end before their limit: what counts is how long they are.
    could = rate * crowd.deadline_s / mean(len(record.token_ids) for record in quiet.records)
    _print_endings(at_once, could)
    agreement = Agreement.of([quiet, at_once])
    print(f"{agreement.compared_tokens} tokens compared with quiet ones, {agreement.differing_tokens} differ")
    failed = any(record.status is Status.FAILED for record in at_once.records)
    return 1 if agreement.differing_tokens or failed else 0


def _print_endings(at_once: MeasuredSegment, could: float) -> None:
    """Say how the crowd ended, beside how many could have been done."""
    by_status = {status: [each for each in at_once.records if each.status is status] for status in Status}
    completed = len(by_status[Status.COMPLETED])
    print(", ".join(f"{len(records)} {status.value}" for status, records in by_status.items() if records))
    for status in (Status.REFUSED, Status.FAILED):
        for record in by_status[status][:1]:
            print(f"one of those {status.value}: {record.error}")
    share = completed / min(could, len(at_once.records)) if could else math.nan
    print(f"could have been done: {could:.1f} ({share:.2f} of them were)")
    print(
        f"longest time to a refusal: {1e3 * _longest_s(by_status[Status.REFUSED]):.0f} ms, "
        f"to a completion: {_longest_s(by_status[Status.COMPLETED]):.2f} s"
    )


def _longest_s(records: Sequence[RequestRecord]) -> float:
    return max((record.total_ns / 1e9 for record in records), default=math.nan)


async def run(arguments: argparse.Namespace) -> int:
    lines = tuple(FilePrompt(prompt=each.prompt) for each in read_prompts("", arguments.prompts))
    workload = Workload(
        (), lines, max_tokens=(arguments.max_tokens, arguments.max_tokens), seed=arguments.seed, ignore_end=False
    )
    async with AsyncExitStack() as stack:
        address = arguments.address
        if not address:
            plan = Plan.of(BenchSettings(peers=("none",)))
            services = await stack.enter_async_context(running_services(plan, lambda line: None))
            address = services.coordinator
        speculation = Speculation(arguments.speculation)
        return await measure(DeadlineCrowd(address, workload, speculation, arguments.requests, arguments.deadline_s))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deadlines", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--address", default="", help="a running coordinator; left out: one is started")
    parser.add_argument("--requests", type=int, default=100, help="sent at once")
    parser.add_argument("--deadline-s", type=float, default=3.0, help="of each, in seconds")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=12, help="built-in prompts to use")
    parser.add_argument("--seed", type=int, default=0, help="which request has which prompt")
    parser.add_argument("--speculation", choices=[each.value for each in Speculation], default="off")
    return asyncio.run(run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
