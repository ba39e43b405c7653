"""A drafter's metrics, read from its engine when somebody asks."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from drafter_service.engine import Drafter
from sybil_engine.serving.metrics import occupancy_metrics, proposer_failures


def drafter_metrics(engine: Drafter) -> Iterator[Metric]:
    """All metrics of an engine that runs on another thread."""
    yield from occupancy_metrics(engine.occupancy)
    yield from engine.passes.collect()
    yield proposer_failures(engine.registry.failures)
