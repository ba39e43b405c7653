"""This engine, running in the environment of a benchmark."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.arms import Generate
from benchmarks.plan import Plan
from benchmarks.services import RunningServices, running_services
from sybil_engine.client import connected
from sybil_local import LocalEngine


@dataclass(frozen=True, slots=True)
class BenchEngine:
    """The engine, wherever it runs.

    Attributes:
        services: None for the engine in this process, which sends no messages.
        delay_ns: what the emulated link adds to each message from or to the verifier.
    """

    generate: Generate
    services: RunningServices | None = None
    delay_ns: int = 0


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
            yield BenchEngine(engine.arun)
        return
    async with (
        running_services(plan, report) as services,
        connected(services.coordinator) as client,
    ):
        yield BenchEngine(client.generate, services, plan.environment.delay_ns)
