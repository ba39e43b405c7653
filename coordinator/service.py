"""A whole coordinator in one process: the public port, the pipelines, the routing. It does not need Ray."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from coordinator.addresses import reachable
from coordinator.admission import Admission
from coordinator.api.grpc import GenerationServicer
from coordinator.generation import Generation
from coordinator.metrics import coordinator_collector
from coordinator.patience import Patience
from coordinator.progress import Report, until_done
from coordinator.request import Defaults
from coordinator.request_metrics import RequestMetrics
from coordinator.routing import Router, RoutingTable
from coordinator.settings import ServingSettings
from sybil_engine.core.errors import Unavailable
from sybil_engine.rpc.v1 import generation_service_pb2
from sybil_engine.rpc.v1.generation_service_pb2_grpc import add_GenerationServiceServicer_to_server
from sybil_engine.serving.metrics import serving_metrics
from sybil_engine.serving.server import RunningServer, running_server

# A verifier that broke a session is asked again at once. It is reported as gone only if it stays away for longer.
_OUTAGE_S = 1.0


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A coordinator whose port is open."""

    settings: ServingSettings
    router: Router
    admission: Admission
    _server: RunningServer
    _started: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """host:port at which this machine reaches it."""
        return reachable(self.settings.host, self._server.port)

    async def start_serving(self, report: Report) -> None:
        """Wait for a verifier, then briefly for the drafters; then report SERVING while a verifier is live.

        Args:
            report: called with what is being waited for, in words.

        Raises:
            Unavailable: no verifier within the settings' start_s.
            PairMismatch: the services do not belong together.
        """
        await until_done(self.router.waiting_for_verifier, report, self.settings.start_s)
        try:
            await until_done(self.router.waiting_for_drafters, report, self.settings.drafter_start_s)
        except Unavailable as error:
            report(f"going on without every drafter: {error}")
        await self._server.set_serving(self.router.has_verifier)
        self._started.set()

    async def report_health(self, changed: asyncio.Event) -> None:
        """Once started, report SERVING while a verifier is live and NOT_SERVING otherwise, until cancelled.

        Args:
            changed: set whenever the router may have gained or lost a verifier.
        """
        await self._started.wait()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_OUTAGE_S):
                    while not self.router.has_verifier:
                        changed.clear()
                        await changed.wait()
            changed.clear()
            await self._server.set_serving(self.router.has_verifier)
            await changed.wait()


@asynccontextmanager
async def open_coordinator(settings: ServingSettings, table: RoutingTable) -> AsyncIterator[Coordinator]:
    """Open the port, NOT_SERVING at first. Leaving the block lets running requests end within the grace period."""
    admission = Admission(settings.max_waiting)
    verifiers_changed = asyncio.Event()

    def changed() -> None:
        admission.resize(router.room)
        verifiers_changed.set()

    router = Router(changed)
    defaults = Defaults(
        settings.speculation,
        settings.window_tokens,
        settings.default_drafters,
        settings.max_priority,
        settings.allow_lossy,
    )
    metrics = RequestMetrics()
    generation = Generation(router, admission, defaults, Patience(reopen_s=settings.reopen_s), metrics)
    servicer = GenerationServicer(generation, router, settings.slow_reader_s)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(router.close)
        collector = coordinator_collector(metrics, admission, router)
        stack.enter_context(serving_metrics(settings.host, settings.metrics_port, collector))
        server = await stack.enter_async_context(
            running_server(
                settings.host,
                settings.port,
                generation_service_pb2.DESCRIPTOR,
                lambda server: add_GenerationServiceServicer_to_server(servicer, server),
                settings.grace_s,
            )
        )
        coordinator = Coordinator(settings, router, admission, server)
        reporting = asyncio.create_task(coordinator.report_health(verifiers_changed))
        stack.callback(reporting.cancel)
        router.route(table)
        expanding = asyncio.create_task(router.keep_expanding())
        stack.callback(expanding.cancel)
        yield coordinator


@asynccontextmanager
async def running_coordinator(
    settings: ServingSettings, table: RoutingTable, report: Report
) -> AsyncIterator[Coordinator]:
    """Open the port and wait until the coordinator serves."""
    async with open_coordinator(settings, table) as coordinator:
        await coordinator.start_serving(report)
        yield coordinator
