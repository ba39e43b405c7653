"""A whole coordinator in one process: the public port, the pipelines, the routing. It needs no Ray."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from coordinator.addresses import reachable
from coordinator.admission import Admission
from coordinator.gateway import Gateway
from coordinator.progress import Report, until_done
from coordinator.routing import Router, RoutingTable
from coordinator.settings import ServingSettings
from sybil_engine.core.errors import Unavailable
from sybil_engine.rpc.v1 import generation_service_pb2
from sybil_engine.rpc.v1.generation_service_pb2_grpc import add_GenerationServiceServicer_to_server
from sybil_engine.serving.server import RunningServer, running_server


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A coordinator whose port is open."""

    server: RunningServer
    router: Router
    admission: Admission
    settings: ServingSettings

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def address(self) -> str:
        """host:port at which this machine reaches it."""
        return reachable(self.settings.host, self.port)

    def route(self, table: RoutingTable) -> None:
        """Use these services from now on."""
        self.router.route(table)

    @property
    def waiting_for(self) -> str | None:
        """What this coordinator waits for before it serves."""
        return self.router.waiting_for_verifier() or self.router.waiting_for_drafters()

    async def start_serving(self, report: Report) -> None:
        """Report this coordinator as serving once a verifier is there, and the drafters are or have had their time.

        Raises:
            Unavailable: no verifier within the settings' start_s.
            PairMismatch: the services do not belong together.
        """
        await until_done(self.router.waiting_for_verifier, report, self.settings.start_s)
        try:
            await until_done(self.router.waiting_for_drafters, report, self.settings.drafter_start_s)
        except Unavailable as error:
            report(f"going on without every drafter: {error}")
        await self.server.set_serving(True)


@asynccontextmanager
async def open_coordinator(settings: ServingSettings, table: RoutingTable) -> AsyncIterator[Coordinator]:
    """Open the port, NOT_SERVING at first; leaving the block lets running requests end within the grace period."""
    admission = Admission(settings.max_waiting)
    router = Router(admission.resize)
    try:
        async with running_server(
            settings.host,
            settings.port,
            generation_service_pb2.DESCRIPTOR,
            lambda server: add_GenerationServiceServicer_to_server(Gateway(router, admission, settings), server),
            settings.grace_s,
        ) as server:
            coordinator = Coordinator(server, router, admission, settings)
            coordinator.route(table)
            yield coordinator
    finally:
        await router.close()


@asynccontextmanager
async def running_coordinator(
    settings: ServingSettings, table: RoutingTable, report: Report
) -> AsyncIterator[Coordinator]:
    """Open the port and wait until the coordinator serves."""
    async with open_coordinator(settings, table) as coordinator:
        await coordinator.start_serving(report)
        yield coordinator
