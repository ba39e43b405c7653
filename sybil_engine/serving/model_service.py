"""A process that hosts one model: its port opens at once, before the model is loaded."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Generic, Protocol, TypeVar

import grpc
from google.protobuf.descriptor import FileDescriptor
from prometheus_client.core import Metric

from sybil_engine.core.errors import Unavailable
from sybil_engine.core.startup import without_collection
from sybil_engine.core.types import ModelDescription
from sybil_engine.serving.delay_line import DelayLine
from sybil_engine.serving.engine_thread import Engine, EngineThread
from sybil_engine.serving.metrics import StateCollector, serving_metrics, tasks_metric
from sybil_engine.serving.server import running_server
from sybil_engine.serving.service_settings import ServiceSettings

logger = logging.getLogger(__name__)


class ModelEngine(Engine, Protocol):
    """An engine that describes its model."""

    @property
    def description(self) -> ModelDescription: ...


EngineType = TypeVar("EngineType", bound=ModelEngine)


class HostedModel(Generic[EngineType]):
    """A servicer's model: its description at once, the engine's thread once it is loaded.

    Attributes:
        slow_reader_s: for how long a session waits for its reader.
    """

    def __init__(self, thread: EngineThread[EngineType], description: ModelDescription, slow_reader_s: float) -> None:
        self._thread = thread
        self.description = description
        self.slow_reader_s = slow_reader_s

    @property
    def thread(self) -> EngineThread[EngineType]:
        """The thread that owns the engine.

        Raises:
            Unavailable: it is still loading.
        """
        if not self.description.ready:
            raise Unavailable(f"{self.description.model_id} is still loading; try again in a few seconds")
        return self._thread


async def serve_model(
    settings: ServiceSettings,
    file: FileDescriptor,
    description: ModelDescription,
    load: Callable[[], EngineType],
    add_servicer: Callable[[HostedModel[EngineType], grpc.aio.Server], None],
    metrics: Callable[[EngineType], Iterable[Metric]],
    bound: Callable[[int], None],
) -> None:
    """Serve a model until cancelled, then drain.

    Args:
        file: the proto file of the service.
        description: what is known before the weights are loaded.
        load: makes the engine; runs on the engine's thread.
        metrics: reads the engine's metrics, on other threads; called once the model is loaded.
        bound: called with the port as soon as it listens; the service reports SERVING once the model is loaded.

    Raises:
        Unavailable, InvalidSettings: an address cannot be bound.
        ModelError: what `load` raised.
    """
    name = description.model_id
    delay_s = settings.emulate_delay_ms / 1e3
    thread = EngineThread(load, name, DelayLine(delay_s).delayed) if delay_s else EngineThread(load, name)
    hosted = HostedModel(thread, description, settings.slow_reader_s)
    engines: list[EngineType] = []
    loop = asyncio.get_running_loop()

    def read() -> Iterator[Metric]:
        yield tasks_metric(loop)
        yield from chain.from_iterable(map(metrics, engines))

    collector = StateCollector(read, lambda: {"model_name": name})
    try:
        with serving_metrics(settings.host, settings.metrics_port, collector):
            async with running_server(
                settings.host, settings.port, file, lambda server: add_servicer(hosted, server)
            ) as server:
                bound(server.port)
                logger.info("listening on %s:%d, loading %s", settings.host, server.port, description.model_id)
                with without_collection():
                    # Shielded: the thread cannot be interrupted while it loads.
                    loaded = await asyncio.shield(asyncio.wrap_future(thread.start()))
                engines.append(loaded)
                hosted.description = replace(loaded.description, ready=True)
                await server.set_serving(True)
                logger.info("serving %s", hosted.description)
                await asyncio.Event().wait()
    finally:
        thread.stop()
