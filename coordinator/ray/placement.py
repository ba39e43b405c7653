"""Services as Ray actors: what Ray reserves for each, where it runs, and with which flags."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.ray.cluster import on_a_cluster
from coordinator.ray.hosting import ServiceActor
from coordinator.settings import PlaceSettings
from sybil_engine.core.errors import Unavailable
from sybil_engine.core.model_choice import Dtype
from sybil_engine.core.references import NO_DRAFTER

_ENTRIES = {"verifier": "verifier_service.__main__:serve", "drafter": "drafter_service.__main__:serve"}


@dataclass(slots=True)
class PlacedService:
    """A service that a fleet places.

    Attributes:
        kind: "verifier" or "drafter".
        argv: its flags, without host and port.
        bundle: what Ray reserves for it; Ray refuses an empty bundle.
        actor: runs it.
        address: host:port; None until it listens.
    """

    kind: str
    model: str
    argv: tuple[str, ...]
    bundle: dict[str, float]
    actor: Any = None
    address: str | None = None

    @property
    def name(self) -> str:
        return f"{self.kind} {self.model}"


def place(settings: PlaceSettings) -> list[PlacedService]:
    """Reserve room for every service at once, and start them there.

    Raises:
        Unavailable: the cluster has no room.
    """
    services = [_verifier(settings) for _ in range(settings.verifiers)]
    if settings.draft != NO_DRAFTER:
        services += [_drafter(settings) for _ in range(settings.drafters)]
    for number, service in enumerate(services, start=settings.replicas):
        if port := settings.process_metrics_port(number):
            service.argv += ("--metrics-port", str(port))
    group = _reserve([service.bundle for service in services], settings.start_s)
    for index, service in enumerate(services):
        service.actor = _start(service, group, index)
    return services


def logical_cpus(settings: PlaceSettings) -> int:
    """How many processors to tell Ray that this machine has, so that these services fit even if it has fewer."""
    drafters = 0 if settings.draft == NO_DRAFTER else settings.drafters
    cpus = settings.verifiers * settings.target_cpus + drafters * settings.draft_cpus
    return max(math.ceil(cpus + 0.01), 1)


def _reserve(bundles: Sequence[dict[str, float]], limit_s: float) -> Any:
    """A placement group: room for all bundles, on as few nodes as possible."""
    import ray

    group = ray.util.placement_group(list(bundles), strategy="PACK")
    if not group.wait(limit_s):
        raise Unavailable(
            f"the cluster has no room for {bundles} within {limit_s:g} s; lower --target-gpus, --draft-gpus, "
            "--target-cpus or --draft-cpus, or add nodes"
        )
    return group


def _start(service: PlacedService, group: Any, index: int) -> Any:
    """An actor in one bundle of the group, which Ray starts again whenever it dies."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    actor_class = ray.remote(ServiceActor).options(
        num_cpus=service.bundle["CPU"],
        num_gpus=service.bundle.get("GPU", 0),
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=16,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
    )
    # Services on this machine alone need not be reached by others.
    node_address = ray.util.get_node_ip_address if on_a_cluster() else lambda: "127.0.0.1"
    return actor_class.remote(_ENTRIES[service.kind], service.argv, node_address)


def _verifier(settings: PlaceSettings) -> PlacedService:
    flags = _flags(settings, settings.target, settings.dtype, settings.target_threads, settings.target_gpus)
    bundle = _bundle(settings.target_cpus, settings.target_gpus)
    return PlacedService("verifier", settings.target, flags + settings.verifier_arguments, bundle)


def _drafter(settings: PlaceSettings) -> PlacedService:
    dtype = settings.draft_dtype or settings.dtype
    flags = _flags(settings, settings.draft, dtype, settings.draft_threads, settings.draft_gpus)
    flags += ("--target", settings.target, "--layers", str(settings.draft_layers))
    bundle = _bundle(settings.draft_cpus, settings.draft_gpus)
    return PlacedService("drafter", settings.draft, flags + settings.drafter_arguments, bundle)


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": max(cpus, 0.001)} | ({"GPU": gpus} if gpus else {})


def _flags(settings: PlaceSettings, model: str, dtype: Dtype | None, threads: int, gpus: float) -> tuple[str, ...]:
    named = {
        "--model": model,
        "--dtype": dtype,
        # Ray shows a process the GPUs reserved for it, and no others.
        "--device": settings.device or ("cuda" if gpus else ""),
        "--threads": threads,
    }
    return tuple(str(part) for flag, value in named.items() if value for part in (flag, value))
