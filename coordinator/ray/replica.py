"""A whole coordinator as a Ray actor that a fleet starts, routes and stops."""

import asyncio
from typing import Any

from coordinator.routing import RoutingTable
from coordinator.service import Coordinator, open_coordinator
from coordinator.settings import ServingSettings
from sybil_engine.core.errors import Unavailable


class Replica:
    """Hosts a coordinator. When its process dies, Ray starts a new one; the fleet then calls `run` again."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._coordinator: Coordinator | None = None
        self._serving = False
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self, table: RoutingTable) -> None:
        """Serve until stopped, then drain.

        Raises:
            Unavailable: the port is taken, or no verifier was there in time.
            PairMismatch: the services do not belong together.
        """
        async with open_coordinator(self._settings, table) as coordinator:
            self._coordinator = coordinator
            starting = asyncio.create_task(coordinator.start_serving(lambda waiting: None))
            stopping = asyncio.create_task(self._stop.wait())
            try:
                await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    await starting
                    self._serving = True
                    await stopping
            finally:
                starting.cancel()
                stopping.cancel()
        self._stopped.set()

    async def route(self, table: RoutingTable) -> None:
        """Use these services from now on."""
        if self._coordinator is None:
            raise Unavailable("the replica does not run")
        self._coordinator.route(table)

    async def waiting_for(self) -> str | None:
        """What the replica waits for before it serves, in words; None once it has served.

        Raises:
            PairMismatch: the services do not belong together.
        """
        if self._serving:
            return None
        return (self._coordinator and self._coordinator.waiting_for) or "the coordinator"

    async def stop(self) -> None:
        """Let `run` drain and return; wait for that."""
        self._stop.set()
        if self._coordinator:
            await self._stopped.wait()


def replica_actor(settings: ServingSettings) -> Any:
    """A replica as a Ray actor that is started again whenever it dies."""
    import ray

    # The fleet repeats calls that were under way when the actor died: it has a newer routing table.
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": 64}
    return ray.remote(Replica).options(**options).remote(settings)
