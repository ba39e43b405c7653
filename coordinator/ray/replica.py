"""A whole coordinator as a Ray actor that a fleet starts, routes and stops."""

import asyncio
from typing import Any

from coordinator.ray.hosting import StoppableActor
from coordinator.routing import RoutingTable
from coordinator.service import Coordinator, open_coordinator
from coordinator.settings import ServingSettings
from coordinator.sharing import Demand
from sybil_engine.core.errors import Unavailable


class Replica(StoppableActor):
    """Hosts a coordinator."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._coordinator: Coordinator | None = None
        self._started = False

    async def run(self, table: RoutingTable) -> None:
        """Serve until stopped, then drain.

        Raises:
            Unavailable: the port is taken, or no verifier was there in time.
            PairMismatch: the services do not belong together.
        """
        await self._until_stopped(self._serve(table))

    async def route(self, table: RoutingTable) -> None:
        """Use these services from now on."""
        if self._coordinator is None:
            raise Unavailable("the replica does not run")
        self._coordinator.router.route(table)

    async def waiting_for(self) -> str | None:
        """What the replica waits for before it serves, in words; None once it has served.

        Raises:
            PairMismatch: the services do not belong together.
        """
        if self._started:
            return None
        if self._coordinator is None:
            return "the coordinator"
        router = self._coordinator.router
        return router.waiting_for_verifier() or router.waiting_for_drafters() or "the coordinator"

    async def demand(self) -> Demand:
        """See `Sharer`."""
        return self._coordinator.admission.demand() if self._coordinator else Demand()

    async def grant(self, share: int) -> int:
        """See `Sharer`."""
        return self._coordinator.admission.grant(share) if self._coordinator else 0

    async def _serve(self, table: RoutingTable) -> None:
        async with open_coordinator(self._settings, table) as self._coordinator:
            if self._settings.replicas > 1:
                # The fleet says when others leave room.
                self._coordinator.admission.grant(0)
            await self._coordinator.start_serving(lambda waiting: None)
            self._started = True
            await asyncio.Event().wait()


class RemoteReplica:
    """A replica's part in sharing the room, called from the fleet; one whose process died holds nothing."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def demand(self) -> Demand:
        import ray

        try:
            demand: Demand = await self._actor.demand.remote()
        except ray.exceptions.RayError:
            return Demand()
        return demand

    async def grant(self, share: int) -> int:
        import ray

        try:
            return int(await self._actor.grant.remote(share))
        except ray.exceptions.RayError:
            return 0


def replica_actor(settings: ServingSettings) -> Any:
    """A replica as a Ray actor that is started again whenever it dies."""
    import ray

    # The fleet repeats calls that were under way when the actor died: it has a newer routing table.
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": 64}
    return ray.remote(Replica).options(**options).remote(settings)
