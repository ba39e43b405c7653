"""Starts coordinator replicas under Ray, keeps them and the services they route to, and stops them.

Two modes: connect to services that run elsewhere, or place them as Ray actors, on this machine or on a cluster.
"""

import asyncio
import logging
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from coordinator.hosting import HostedService
from coordinator.progress import Report, until_done
from coordinator.replica import ReplicaStatus, replica_actor
from coordinator.routing import RoutingTable
from coordinator.service import running_coordinator
from coordinator.settings import CoordinatorSettings, PlaceSettings, ServingSettings
from sybil_engine.core.errors import SybilError, Unavailable
from sybil_engine.serving.service_settings import Dtype

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_RAY_START_S = 240.0
_RAY_ATTEMPTS = 3
_RESTART_PAUSE_S = 0.2
_STATUS_S = 0.1
# Ray refuses less; tokens never pass through it.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_DRAFTER_ENTRY = "drafter_service.__main__:serve"
_VERIFIER_ENTRY = "verifier_service.__main__:serve"


@dataclass(frozen=True, slots=True)
class RunningFleet:
    """A fleet that serves.

    Attributes:
        address: host:port of GenerationService.
    """

    address: str
    _broken: "asyncio.Future[SybilError]"

    async def broken(self) -> SybilError:
        """Wait until the fleet cannot go on, and say why."""
        return await asyncio.shield(self._broken)


@asynccontextmanager
async def running_fleet(settings: CoordinatorSettings | PlaceSettings, report: Report) -> AsyncIterator[RunningFleet]:
    """Start a fleet and wait until it serves; leaving the block drains it and leaves no process.

    Args:
        report: told in words what is being waited for, at least every second.

    Raises:
        Unavailable: the port is taken, or the services were not there in time.
        PairMismatch, ModelError, InvalidSettings: the services refuse, or do not belong together.
    """
    if isinstance(settings, CoordinatorSettings) and not settings.ray:
        async with _in_this_process(settings, report) as fleet:
            yield fleet
        return
    with _reserved_port(settings.host, settings.port) as port:
        settings = replace(settings, port=port)
        async with _running_ray(_logical_cpus(settings), report):
            supervisor = _Supervisor(settings)
            try:
                await supervisor.start(report)
                yield RunningFleet(f"{_reachable(settings.host)}:{port}", supervisor.broken)
            finally:
                await supervisor.stop()


@asynccontextmanager
async def _in_this_process(settings: CoordinatorSettings, report: Report) -> AsyncIterator[RunningFleet]:
    table = RoutingTable(settings.drafters, settings.verifiers)
    async with running_coordinator(settings, table, report) as coordinator:
        yield RunningFleet(
            f"{_reachable(settings.host)}:{coordinator.port}", asyncio.get_running_loop().create_future()
        )


class _Supervisor:
    """Keeps the actors running: one task for each."""

    def __init__(self, settings: CoordinatorSettings | PlaceSettings) -> None:
        self._settings = settings
        self.broken: asyncio.Future[SybilError] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._services: list[_Placed] = []
        self._replicas: list[Any] = []
        self._statuses: dict[int, ReplicaStatus] = {}

    async def start(self, report: Report) -> None:
        """Start every actor and wait until every replica serves."""
        if isinstance(self._settings, PlaceSettings):
            self._services = await asyncio.to_thread(_place, self._settings)
            self._tasks += [asyncio.create_task(self._keep_service(each)) for each in self._services]
        # Their processes start while the services load.
        self._replicas = [replica_actor(_serving_only(self._settings)) for _ in range(self._settings.replicas)]
        await until_done(self._services_pending, report, self._settings.start_s)
        self._tasks += [
            asyncio.create_task(self._keep_replica(number, each)) for number, each in enumerate(self._replicas)
        ]
        # A replica gives up by itself after start_s and drafter_start_s, with more to say about why.
        limit_s = self._settings.start_s + self._settings.drafter_start_s + _RAY_START_S
        await until_done(self._replicas_pending, report, limit_s)

    async def stop(self) -> None:
        """Drain the replicas, then the services."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for actors in (self._replicas, [each.actor for each in self._services]):
            await asyncio.gather(*(self._stop_actor(actor) for actor in actors))

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
        return RoutingTable(
            tuple(each.address for each in self._services if each.kind == "drafter" and each.address),
            tuple(each.address for each in self._services if each.kind == "verifier" and each.address),
        )

    def _services_pending(self) -> str | None:
        self._raise_if_broken()
        starting = [f"{each.kind} {each.model}" for each in self._services if not each.address]
        return f"{', '.join(starting)} to start" if starting else None

    def _replicas_pending(self) -> str | None:
        self._raise_if_broken()
        for number in range(len(self._replicas)):
            status = self._statuses.get(number)
            if status is None:
                return "the coordinator to start"
            if status.waiting_for is not None:
                return status.waiting_for
        return None

    def _raise_if_broken(self) -> None:
        if self.broken.done():
            raise self.broken.result()

    async def _keep_service(self, placed: "_Placed") -> None:
        """Run a service again whenever its process dies, and tell the replicas its new address."""

        async def run() -> None:
            address = asyncio.create_task(self._learn_address(placed))
            try:
                await placed.actor.run.remote()
            finally:
                address.cancel()

        await self._keep(f"{placed.kind} {placed.model}", run)

    async def _learn_address(self, placed: "_Placed") -> None:
        import ray

        with suppress(ray.exceptions.RayError):
            placed.address = await placed.actor.address.remote()
        for number, actor in enumerate(self._replicas):
            if number in self._statuses:
                # One that is not there gets the new table when it runs again.
                with suppress(ray.exceptions.RayError):
                    await actor.route.remote(self._table)

    async def _keep_replica(self, number: int, actor: Any) -> None:
        """Run a replica again whenever its process dies."""

        async def run() -> None:
            watching = asyncio.create_task(self._watch_replica(number, actor))
            try:
                await actor.run.remote(self._table)
            finally:
                watching.cancel()
                self._statuses.pop(number, None)

        await self._keep(f"coordinator replica {number}", run)

    async def _watch_replica(self, number: int, actor: Any) -> None:
        import ray

        with suppress(ray.exceptions.RayError):
            while self._statuses.get(number) is None or self._statuses[number].waiting_for is not None:
                self._statuses[number] = await actor.status.remote()
                await asyncio.sleep(_STATUS_S)

    async def _keep(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        import ray

        while True:
            try:
                await run()
            except ray.exceptions.RayActorError:
                logger.warning("%s died; Ray starts it again", what)
            except ray.exceptions.RayTaskError as error:
                if not self.broken.done():
                    cause = error.cause
                    self.broken.set_result(cause if isinstance(cause, SybilError) else SybilError(f"{what}: {cause!r}"))
                return
            await asyncio.sleep(_RESTART_PAUSE_S)


@dataclass(slots=True)
class _Placed:
    """A service that this fleet has placed."""

    kind: str
    model: str
    actor: Any
    address: str | None = None


def _place(settings: PlaceSettings) -> list[_Placed]:
    """Reserve room for every service at once, and start them there."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    wanted = [("verifier", _VERIFIER_ENTRY, settings.target, _verifier_argv(settings))] * settings.verifiers
    if settings.draft != "none":
        wanted += [("drafter", _DRAFTER_ENTRY, settings.draft, _drafter_argv(settings))] * settings.drafters
    bundles = [_bundle(settings, kind) for kind, _, _, _ in wanted]
    group = ray.util.placement_group(bundles, strategy="PACK")
    if not group.wait(settings.start_s):
        raise Unavailable(
            f"the cluster has no room for {bundles} within {settings.start_s:g} s; lower --target-gpus, --draft-gpus, "
            "--target-cpus or --draft-cpus, or add nodes"
        )
    actor_class = ray.remote(HostedService)
    placed = []
    for index, (kind, entry, model, argv) in enumerate(wanted):
        actor = actor_class.options(
            num_cpus=bundles[index]["CPU"],
            num_gpus=bundles[index].get("GPU", 0),
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=16,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        ).remote(entry, argv, ray.util.get_node_ip_address if _on_a_cluster() else _loopback)
        placed.append(_Placed(kind, model, actor))
    return placed


def _bundle(settings: PlaceSettings, kind: str) -> dict[str, float]:
    cpus, gpus = (
        (settings.target_cpus, settings.target_gpus)
        if kind == "verifier"
        else (settings.draft_cpus, settings.draft_gpus)
    )
    # An empty bundle is refused.
    return {"CPU": max(cpus, 0.001)} | ({"GPU": gpus} if gpus else {})


def _verifier_argv(settings: PlaceSettings) -> tuple[str, ...]:
    argv = _model_argv(settings, settings.target, settings.dtype, settings.target_threads, settings.target_gpus)
    return argv + settings.verifier_arguments


def _drafter_argv(settings: PlaceSettings) -> tuple[str, ...]:
    dtype = settings.draft_dtype or settings.dtype
    argv = _model_argv(settings, settings.draft, dtype, settings.draft_threads, settings.draft_gpus)
    return argv + settings.drafter_arguments


def _model_argv(settings: PlaceSettings, model: str, dtype: Dtype | None, threads: int, gpus: float) -> tuple[str, ...]:
    named = {
        "--model": model,
        "--dtype": dtype,
        # Ray shows a process the GPUs reserved for it, and no others.
        "--device": settings.device or ("cuda" if gpus else ""),
        "--threads": threads,
    }
    return tuple(str(part) for flag, value in named.items() if value for part in (flag, value))


def _logical_cpus(settings: CoordinatorSettings | PlaceSettings) -> int:
    """How many processors Ray may think it has on this machine: enough for what is placed, however few there are."""
    if isinstance(settings, CoordinatorSettings):
        return 1
    cpus = settings.verifiers * settings.target_cpus + settings.drafters * settings.draft_cpus
    return max(math.ceil(cpus + 0.01), 1)


def _serving_only(settings: ServingSettings) -> ServingSettings:
    """What a replica needs to know."""
    return ServingSettings(**{name: getattr(settings, name) for name in ServingSettings.__dataclass_fields__})


@asynccontextmanager
async def _running_ray(logical_cpus: int, report: Report) -> AsyncIterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or run one on this machine that is reached with a token of its own."""
    folder = None if _on_a_cluster() else _short_temporary_folder()
    with _environment(_ray_environment(local=folder is not None)):
        starting = asyncio.create_task(asyncio.to_thread(_start_ray, logical_cpus, folder))
        try:
            await until_done(lambda: None if starting.done() else "Ray to start", report, _RAY_START_S)
            await starting
            yield
        finally:
            # What is half started cannot be stopped.
            await asyncio.wait((starting,))
            await asyncio.to_thread(_stop_ray)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)


def _ray_environment(local: bool) -> dict[str, str]:
    """Variables that Ray and the processes it starts read, unless they are set already."""
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray would let its workers give way to every other program of the machine.
        "RAY_worker_niceness": "0",
        # Signals are for this process to handle.
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
        # A service without reserved GPUs sees those that the user shows it.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if local:
        variables |= {
            # Otherwise Ray would write a token below the home folder, which may be read-only, or missing.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # Ray would give a model one thread for each reserved processor; services have a setting for that.
            "OMP_NUM_THREADS": str(os.cpu_count() or 1),
            # It would kill services when other programs fill the memory.
            "RAY_memory_monitor_refresh_ms": "0",
        }
    return {name: value for name, value in variables.items() if name not in os.environ}


def _start_ray(logical_cpus: int, folder: str | None) -> None:
    import ray

    # Its warnings are about options that were chosen on purpose.
    logging.getLogger("ray").setLevel(logging.ERROR)

    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if folder:
        options |= {
            "address": "local",
            "num_cpus": logical_cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": folder,
            "_node_ip_address": "127.0.0.1",
        }
    for attempt in range(1, _RAY_ATTEMPTS + 1):
        try:
            ray.init(**options)
            # The switch of Ray's own debugger. Otherwise its errors are printed between what this program prints.
            ray._private.worker._worker_logs_enabled = False
            return
        # Ray raises bare exceptions when its processes do not come up in the time that it gives them: 15 s for some.
        except Exception as error:
            ray.shutdown()
            if attempt == _RAY_ATTEMPTS:
                raise Unavailable(
                    f"Ray did not start: {error}; is this machine very busy, or RAY_ADDRESS wrong?"
                ) from error


def _stop_ray() -> None:
    import ray

    ray.shutdown()


def _on_a_cluster() -> bool:
    return bool(os.environ.get("RAY_ADDRESS"))


def _loopback() -> str:
    """The address of a service that only this machine needs to reach."""
    return "127.0.0.1"


def _short_temporary_folder() -> str:
    """Ray's sockets live below it, and a socket's path has 107 characters at most."""
    parent = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="sybil-", dir=parent if len(parent) < 30 else "/tmp")  # noqa: S108 - made by mkdtemp


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables that are set while the block runs."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


@contextmanager
def _reserved_port(host: str, port: int) -> Iterator[int]:
    """Keep a port for the replicas to share, whichever of them lives.

    Raises:
        Unavailable: another process uses it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as exclusive:
        # Without SO_REUSEPORT at first: another fleet's port must not be shared by accident.
        exclusive.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            exclusive.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {host}:{port}: {error.strerror}; is another process using that port? Choose "
                "another with --port"
            ) from error
        port = exclusive.getsockname()[1]
    with socket.socket(family, socket.SOCK_STREAM) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))
        yield port


def _reachable(host: str) -> str:
    """An address under which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
