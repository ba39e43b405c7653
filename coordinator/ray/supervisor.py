"""Keeps a fleet's actors running, and tells the replicas the services' addresses."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from coordinator.addresses import reachable
from coordinator.progress import Report, until_done
from coordinator.ray.cluster import START_S
from coordinator.ray.placement import PlacedService, place
from coordinator.ray.replica import RemoteReplica, replica_actor
from coordinator.routing import RoutingTable
from coordinator.settings import CoordinatorSettings, PlaceSettings
from coordinator.sharing import Sharing
from sybil_engine.core.errors import SybilError

logger = logging.getLogger(__name__)

_RESTART_PAUSE_S = 0.2
_STATUS_S = 0.1
_SHARE_S = 0.1
_NO_ANSWER = "the coordinator to start"


@dataclass(slots=True)
class _KeptReplica:
    """A replica, as its supervisor knows it.

    Attributes:
        waiting_for: what it waits for before it serves, in words; None once it serves.
    """

    name: str
    actor: Any
    waiting_for: str | None = _NO_ANSWER


Kept = TypeVar("Kept", PlacedService, _KeptReplica)


class Supervisor:
    """Runs each actor in a task of its own, and restarts it whenever its process dies."""

    def __init__(self, settings: CoordinatorSettings | PlaceSettings) -> None:
        self._settings = settings
        self._broken: asyncio.Future[SybilError] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._services: list[PlacedService] = []
        self._replicas: list[_KeptReplica] = []

    @property
    def address(self) -> str:
        """host:port of GenerationService."""
        return reachable(self._settings.host, self._settings.port)

    async def broken(self) -> SybilError:
        """Wait until the fleet cannot go on, and say why."""
        return await asyncio.shield(self._broken)

    async def start(self, report: Report) -> None:
        """Start every actor and wait until every replica serves."""
        settings = self._settings
        if isinstance(settings, PlaceSettings):
            self._services = await asyncio.to_thread(place, settings)
            self._tasks += [
                asyncio.create_task(self._keep(each, lambda: (), self._learn_address)) for each in self._services
            ]
        # Their processes start while the services load.
        self._replicas = [
            _KeptReplica(f"coordinator replica {number}", replica_actor(_numbered(settings, number)))
            for number in range(settings.replicas)
        ]
        await until_done(self._services_pending, report, settings.start_s)
        self._tasks += [
            asyncio.create_task(self._keep(each, lambda: (self._table,), self._watch)) for each in self._replicas
        ]
        if settings.replicas > 1:
            sharing = Sharing([RemoteReplica(each.actor) for each in self._replicas])
            self._tasks.append(asyncio.create_task(sharing.keep(_SHARE_S)))
        # A replica gives up by itself after start_s and drafter_start_s, with a better reason.
        await until_done(self._replicas_pending, report, settings.start_s + settings.drafter_start_s + START_S)

    async def stop(self) -> None:
        """Drain the replicas, then the services."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._stop_actor(each.actor) for each in self._replicas))
        await asyncio.gather(*(self._stop_actor(each.actor) for each in self._services))

    async def _stop_actor(self, actor: Any) -> None:
        import ray

        with suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(self._settings.grace_s + 5):
                await actor.stop.remote()
        ray.kill(actor)

    @property
    def _table(self) -> RoutingTable:
        if isinstance(self._settings, CoordinatorSettings):
            return RoutingTable(self._settings.drafters, self._settings.verifiers)
        return RoutingTable(self._addresses("drafter"), self._addresses("verifier"))

    def _addresses(self, kind: str) -> tuple[str, ...]:
        return tuple(each.address for each in self._services if each.kind == kind and each.address)

    def _services_pending(self) -> str | None:
        self._raise_if_broken()
        starting = [each.name for each in self._services if not each.address]
        return f"{', '.join(starting)} to start" if starting else None

    def _replicas_pending(self) -> str | None:
        self._raise_if_broken()
        return next((each.waiting_for for each in self._replicas if each.waiting_for), None)

    def _raise_if_broken(self) -> None:
        if self._broken.done():
            raise self._broken.result()

    async def _learn_address(self, service: PlacedService) -> None:
        """Wait until a service listens, and route every replica to it."""
        import ray

        with suppress(ray.exceptions.RayError):
            service.address = await service.actor.address.remote()
        # A replica that does not answer gets the new table when it runs again.
        for replica in [each for each in self._replicas if each.waiting_for != _NO_ANSWER]:
            with suppress(ray.exceptions.RayError):
                await replica.actor.route.remote(self._table)

    async def _watch(self, replica: _KeptReplica) -> None:
        """Ask a replica what it is waiting for, until it serves."""
        import ray

        replica.waiting_for = _NO_ANSWER
        with suppress(ray.exceptions.RayError):
            while replica.waiting_for:
                replica.waiting_for = await replica.actor.waiting_for.remote()
                await asyncio.sleep(_STATUS_S)

    async def _keep(
        self, kept: Kept, arguments: Callable[[], Sequence[Any]], watch: Callable[[Kept], Coroutine[Any, Any, None]]
    ) -> None:
        """Run and watch an actor, again whenever its process dies. An error that it raises itself ends the fleet."""
        import ray

        while True:
            watching = asyncio.create_task(watch(kept))
            try:
                await kept.actor.run.remote(*arguments())
            except ray.exceptions.RayActorError:
                logger.warning("%s died; Ray starts it again", kept.name)
            except ray.exceptions.RayTaskError as error:
                if not self._broken.done():
                    cause = error.cause
                    known = cause if isinstance(cause, SybilError) else SybilError(f"{kept.name}: {cause!r}")
                    self._broken.set_result(known)
                return
            finally:
                watching.cancel()
            await asyncio.sleep(_RESTART_PAUSE_S)


def _numbered(settings: CoordinatorSettings | PlaceSettings, number: int) -> CoordinatorSettings | PlaceSettings:
    """A replica's settings: its metrics have a port of their own."""
    return settings.model_copy(update={"metrics_port": settings.process_metrics_port(number)})
