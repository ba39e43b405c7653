"""A fleet under Ray: coordinator replicas, and the services they route to.

A fleet connects to services that run elsewhere, or places them as Ray actors, on this machine or on a cluster.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator.addresses import reserved_port
from coordinator.progress import Report
from coordinator.ray.cluster import running_ray
from coordinator.ray.placement import logical_cpus
from coordinator.ray.supervisor import Supervisor
from coordinator.settings import CoordinatorSettings, PlaceSettings


@asynccontextmanager
async def running_fleet(settings: CoordinatorSettings | PlaceSettings, report: Report) -> AsyncIterator[Supervisor]:
    """Start a fleet and wait until it serves; leaving the block drains it and leaves no process.

    Args:
        report: called with what is being waited for, in words, at least every second.

    Raises:
        Unavailable: the port is taken, or the services were not there in time.
        PairMismatch, ModelError, InvalidSettings: the services refuse, or do not belong together.
    """
    settings.check_metrics_ports()
    with reserved_port(settings.host, settings.port) as port:
        settings = settings.model_copy(update={"port": port})
        async with running_ray(logical_cpus(settings) if isinstance(settings, PlaceSettings) else 1, report):
            supervisor = Supervisor(settings)
            try:
                await supervisor.start(report)
                yield supervisor
            finally:
                await supervisor.stop()
