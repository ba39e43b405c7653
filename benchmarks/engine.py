"""This engine, running in the environment of a benchmark: it makes arms, and traces single sessions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.arms import Arm, BenchTask, EngineArm
from benchmarks.plan import Plan
from benchmarks.services import RunningServices, running_services
from benchmarks.trace import SessionTrace, trace_session
from sybil_engine.client import GenerationClient, connected
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_local import LocalEngine


class BenchEngine(Protocol):
    """What a benchmark needs of the engine."""

    def arm(self, name: str, speculation: Speculation, window_tokens: int) -> Arm:
        """An arm that completes prompts under this policy."""

    async def trace(self, arm: Arm, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> SessionTrace | None:
        """Complete one task, untimed, and record every message; None if the engine sends no messages."""


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """The engine as services."""

    services: RunningServices
    client: GenerationClient
    delay_ns: int

    def arm(self, name: str, speculation: Speculation, window_tokens: int) -> Arm:
        return EngineArm(self.client.generate, name, speculation, window_tokens)

    async def trace(self, arm: Arm, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> SessionTrace | None:
        return await trace_session(self.services, self.delay_ns, arm, task, sampling, max_tokens)


@dataclass(frozen=True, slots=True)
class EngineHere:
    """The engine in this process."""

    engine: LocalEngine

    def arm(self, name: str, speculation: Speculation, window_tokens: int) -> Arm:
        return EngineArm(self.engine.arun, name, speculation, window_tokens)

    async def trace(self, arm: Arm, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> SessionTrace | None:
        return None


@asynccontextmanager
async def running_engine(plan: Plan, report: Callable[[str], None]) -> AsyncIterator[BenchEngine]:
    """Start the engine in the plan's environment; leaving the block ends it.

    Args:
        report: called with what is being waited for, in words.

    Raises:
        SybilError: it does not come up.
    """
    if plan.settings.env == "local":
        report("loading the models")
        with await asyncio.to_thread(LocalEngine.from_settings, *plan.service_settings) as engine:
            yield EngineHere(engine)
        return
    async with (
        running_services(plan.environment, plan.verifier_arguments, plan.drafter_arguments, report) as services,
        connected(services.coordinator) as client,
    ):
        yield ServedEngine(services, client, plan.environment.delay_ns)
