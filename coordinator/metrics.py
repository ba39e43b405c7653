"""A coordinator's metrics: its requests, and the services that it routes them to."""

import asyncio
from collections.abc import Iterator

from prometheus_client.core import Metric

from coordinator.admission import Admission
from coordinator.request_metrics import RequestMetrics
from coordinator.routing import Router
from sybil_engine.core.errors import Unavailable
from sybil_engine.serving.metrics import StateCollector, gauge, tasks_metric


def coordinator_collector(requests: RequestMetrics, admission: Admission, router: Router) -> StateCollector:
    """All metrics of a coordinator that runs on another thread, with its target's name."""

    loop = asyncio.get_running_loop()

    def read() -> Iterator[Metric]:
        yield tasks_metric(loop)
        yield gauge("num_requests_running", "Requests that hold a place", admission.running)
        yield gauge("num_requests_waiting", "Requests that wait for a place", admission.waiting)
        yield from requests.collect()
        yield from _services(router)

    return StateCollector(read, lambda: {"model_name": _target(router)})


def _services(router: Router) -> Iterator[Metric]:
    labels = ("service", "address")
    live = gauge("service_live", "1 while the service can be used", labels=labels)
    sessions = gauge("service_sessions", "Sessions of this coordinator on the service", labels=labels)
    for service, endpoint in router.endpoints:
        live.add_metric((service, endpoint.address), endpoint.live)
        sessions.add_metric((service, endpoint.address), endpoint.sessions)
    yield from (live, sessions)


def _target(router: Router) -> str:
    """The name of what the verifiers serve; empty until one has answered."""
    try:
        return router.target.description.model_id
    except Unavailable:
        return ""
