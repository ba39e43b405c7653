"""This engine while it runs in the environment of a benchmark: it makes arms, and traces single sessions."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc

from benchmarks.arms import Arm, BenchTask, ServedArm
from benchmarks.plan import Plan
from benchmarks.services import RunningServices, running_services
from benchmarks.trace import SessionTrace, trace_session
from sybil_engine.core.types import SamplingParams, Speculation


class BenchEngine(Protocol):
    """What a benchmark asks of the engine, wherever it runs."""

    def arm(self, name: str, speculation: Speculation, window_tokens: int) -> Arm:
        """An arm that completes prompts under this policy."""

    async def trace(self, arm: Arm, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> SessionTrace:
        """Complete one task, untimed, and write every message down."""


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """The engine as services."""

    services: RunningServices
    channel: grpc.aio.Channel
    delay_ns: int

    def arm(self, name: str, speculation: Speculation, window_tokens: int) -> Arm:
        return ServedArm(self.channel, name, speculation, window_tokens)

    async def trace(self, arm: Arm, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> SessionTrace:
        return await trace_session(self.services, self.delay_ns, arm, task, sampling, max_tokens)


@asynccontextmanager
async def running_engine(plan: Plan, report: Callable[[str], None]) -> AsyncIterator[BenchEngine]:
    """Start the engine in the plan's environment; leaving the block ends it.

    Args:
        report: called with what is being waited for, in words.

    Raises:
        Unavailable: it does not come up.
    """
    # An environment without services yields a BenchEngine of its own here.
    async with (
        running_services(plan.environment, plan.verifier_arguments, plan.drafter_arguments, report) as services,
        grpc.aio.insecure_channel(services.coordinator) as channel,
    ):
        yield ServedEngine(services, channel, plan.environment.delay_ns)
