"""A process that hosts one model: its port opens at once, before the model is loaded."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import grpc
import uvloop
from google.protobuf.descriptor import FileDescriptor

from sybil_engine.core.errors import InvalidRequest, ModelError, SybilError, Unavailable
from sybil_engine.core.startup import without_collection
from sybil_engine.core.types import ModelDescription
from sybil_engine.serving.delay_line import DelayLine
from sybil_engine.serving.engine_thread import Engine, EngineThread
from sybil_engine.serving.server import running_server
from sybil_engine.serving.service_settings import ServiceSettings

_log = logging.getLogger(__name__)


class ModelEngine(Engine, Protocol):
    """An engine that describes its model."""

    @property
    def description(self) -> ModelDescription: ...


EngineType = TypeVar("EngineType", bound=ModelEngine)


class HostedModel(Generic[EngineType]):
    """A servicer's model: its description at once, the engine's thread once it is loaded."""

    def __init__(self, thread: EngineThread[EngineType], description: ModelDescription) -> None:
        self._thread = thread
        self.description = description

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
    bound: Callable[[int], None],
    stop: asyncio.Event,
) -> None:
    """Serve a model until `stop` is set, then drain.

    Args:
        file: the proto file of the service.
        description: what is known before the weights are loaded.
        load: makes the engine; runs on the engine's thread.
        bound: called with the port as soon as it listens; the service reports SERVING once the model is loaded.

    Raises:
        Unavailable: the address cannot be bound.
        ModelError: what `load` raised.
    """
    name = f"engine-{description.model_id}"
    delay_s = settings.emulate_delay_ms / 1e3
    thread = EngineThread(load, name, DelayLine(delay_s).delayed) if delay_s else EngineThread(load, name)
    hosted = HostedModel(thread, description)
    stopped = asyncio.create_task(stop.wait())
    try:
        async with running_server(
            settings.host, settings.port, file, lambda server: add_servicer(hosted, server)
        ) as server:
            bound(server.port)
            _log.info("listening on %s:%d, loading %s", settings.host, server.port, description.model_id)
            loaded = asyncio.wrap_future(thread.start())
            with without_collection():
                await asyncio.wait((loaded, stopped), return_when=asyncio.FIRST_COMPLETED)
            if loaded.done():
                hosted.description = replace(loaded.result().description, ready=True)
                await server.set_serving(True)
                _log.info("serving %s", hosted.description)
                await stopped
    finally:
        stopped.cancel()
        thread.stop()


def run_service(serve: Callable[[Callable[[int], None], asyncio.Event], Awaitable[Any]], program: str) -> int:
    """Run a service as a process of its own until SIGTERM or SIGINT.

    Args:
        serve: takes a function to call with the bound port, and the event that ends it.

    Returns:
        The exit status: 0 after a drain, 2 if the settings or the model cannot be used, 1 for any other failure.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(lambda port: None, stop)

    try:
        uvloop.run(run())
    except SybilError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2 if isinstance(error, InvalidRequest | ModelError) else 1
    return 0
