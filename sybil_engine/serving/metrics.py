"""Metrics for Prometheus, on a port of their own, and the parts of them that several processes have.

Nothing is written for a metric that can be read from the state of the process when somebody asks. docs/metrics.md lists
all of them.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.occupancy import Occupancy
from sybil_engine.proposers.asked import FailureCounts

logger = logging.getLogger(__name__)

PREFIX = "sybil_"
"""What every name of a metric begins with."""

_SECONDS = tuple(digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5))
_ROWS = tuple(2**power for power in range(11))


class StateCollector(Collector):
    """Reads metrics when somebody asks for them, and puts the same labels on all of them.

    Args:
        read: called on the metrics' own threads.
        labels: the labels; may change.
    """

    def __init__(self, read: Callable[[], Iterable[Metric]], labels: Callable[[], Mapping[str, str]]) -> None:
        self._read = read
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        labels = self._labels()
        for metric in self._read():
            metric.samples = [
                sample._replace(labels={**labels, **sample.labels})
                for sample in metric.samples
                # When a counter was made: a series more for each, which nobody needs.
                if not sample.name.endswith("_created")
            ]
            yield metric


class PassMetrics:
    """The times and rows of a model's passes."""

    def __init__(self) -> None:
        self._seconds = seconds_histogram("pass_seconds", "Time of a decode pass, with drawing and judging")
        self._rows = Histogram(
            PREFIX + "pass_rows", "Rows that a decode pass computed, padding included", buckets=_ROWS, registry=None
        )

    def ran(self, rows: int, pass_ns: int) -> None:
        """Note a pass that computed this many rows."""
        self._seconds.observe(pass_ns / 1e9)
        self._rows.observe(rows)

    def collect(self) -> Iterator[Metric]:
        """Both histograms."""
        yield from self._seconds.collect()
        yield from self._rows.collect()


def seconds_histogram(name: str, text: str) -> Histogram:
    """A histogram of seconds, from 100 us to 500 s, that belongs to no registry."""
    return Histogram(PREFIX + name, text, buckets=_SECONDS, registry=None)


def gauge(name: str, text: str, value: float | None = None, *, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    """A value that goes up and down; with labels, `add_metric` adds each of its values."""
    return GaugeMetricFamily(PREFIX + name, text, value, labels or None)


def counter(name: str, text: str, value: float | None = None, *, labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    """A value that only grows; with labels, `add_metric` adds each of its values. Its sample's name ends in _total."""
    return CounterMetricFamily(PREFIX + name, text, value, labels or None)


def tasks_metric(loop: asyncio.AbstractEventLoop) -> Metric:
    """How many tasks an event loop runs; another thread may ask."""
    return gauge("event_loop_tasks", "Tasks of the process's event loop", len(asyncio.all_tasks(loop)))


def occupancy_metrics(occupancy: Occupancy) -> Iterator[Metric]:
    """The sessions and pages of an engine."""
    used, free = occupancy.used_pages, occupancy.free_pages
    yield gauge("num_sessions_running", "Open sessions that hold cells", occupancy.running_sessions)
    yield gauge("num_sessions_waiting", "Open sessions that hold no cells", occupancy.waiting_sessions)
    yield counter("num_preemptions", "Sessions that have lost their cells to others", occupancy.evictions)
    yield gauge("kv_cache_usage_perc", "Share of the pages that sessions use; 1 is all", used / max(1, used + free))
    yield gauge("kv_cache_pages_used", "Pages that sessions use", used)
    yield gauge("kv_cache_pages_free", "Pages that no session uses, those kept of prompts included", free)
    yield gauge("kv_cache_pages_shared", "Pages that several sessions use", occupancy.shared_pages)
    yield counter("prefix_cache_queries", "Prompt tokens looked up when sessions started", occupancy.prompt_tokens)
    yield counter("prefix_cache_hits", "Prompt tokens found, and not fed", occupancy.reused_tokens)


@contextmanager
def serving_metrics(host: str, port: int, collector: Collector) -> Iterator[None]:
    """Serve metrics at http://host:port/metrics while the block runs.

    Args:
        port: 0 serves none.

    Raises:
        InvalidSettings: the address cannot be bound.
    """
    if not port:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise InvalidSettings(
            f"cannot serve metrics on {host}:{port}: {error.strerror}; choose another port with --metrics-port"
        ) from error
    logger.info("metrics at http://%s:%d/metrics", host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def proposer_failures(failures: FailureCounts) -> CounterMetricFamily:
    """What proposers did wrong; any thread may ask."""
    metric = counter("proposer_failures", "What proposers did wrong", labels=("drafter", "failure"))
    for (drafter, failure), count in dict(failures).items():
        metric.add_metric((drafter, failure.value), count)
    return metric
