"""A gRPC server with health and reflection, and the gRPC status of each error."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from sybil_engine.core import errors
from sybil_engine.serving.channels import SERVER_OPTIONS
from sybil_engine.serving.decoding import DecodingInterceptor
from sybil_engine.serving.retry import retry_trailers

# The first class that an error is an instance of counts; see the tree in errors.py.
_STATUS_CODES: tuple[tuple[type[errors.SybilError], grpc.StatusCode], ...] = (
    (errors.ContextExceeded, grpc.StatusCode.OUT_OF_RANGE),
    (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.SlowReader, grpc.StatusCode.ABORTED),
    (errors.SessionError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.PairMismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Exhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.SybilError, grpc.StatusCode.INTERNAL),
)


def status_code(error: errors.SybilError) -> grpc.StatusCode:
    """The gRPC status that tells a client what kind of error this is."""
    return next(code for kind, code in _STATUS_CODES if isinstance(error, kind))


@asynccontextmanager
async def aborting(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """Abort the call with the status of an engine's error, which also says when to try again if that is known."""
    try:
        yield
    except errors.SybilError as error:
        code, reason = status_code(error), str(error)
        retry_s = error.retry_s if isinstance(error, errors.Exhausted) else None
        await context.abort(code, reason, () if retry_s is None else retry_trailers(code, reason, retry_s))


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A started server: its bound port, and whether it reports itself as serving."""

    grpc_server: grpc.aio.Server
    port: int
    _health: HealthServicer
    _service_names: tuple[str, ...]

    async def set_serving(self, serving: bool) -> None:
        """Report SERVING or NOT_SERVING for the whole process and each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._service_names):
            await self._health.set(name, status)


@asynccontextmanager
async def running_server(
    host: str,
    port: int,
    file: FileDescriptor,
    add_services: Callable[[grpc.aio.Server], None],
    grace_s: float = 5.0,
) -> AsyncIterator[RunningServer]:
    """Serve with health (NOT_SERVING at first) and reflection until the block is left, then drain.

    Args:
        port: 0 picks a free one.
        file: the proto file whose services are served.
        add_services: adds the servicers.
        grace_s: how long running calls may continue after the block is left.

    Raises:
        Unavailable: the address cannot be bound.
    """
    server = grpc.aio.server(interceptors=(DecodingInterceptor(),), options=SERVER_OPTIONS)
    add_services(server)
    names = tuple(service.full_name for service in file.services_by_name.values())
    health_servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        bound_port = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise errors.Unavailable(
            f"cannot listen on {host}:{port}; is another process using that port? Choose another with --port"
        ) from error
    running = RunningServer(server, bound_port, health_servicer, names)
    await running.set_serving(False)
    await server.start()
    try:
        yield running
    finally:
        await health_servicer.enter_graceful_shutdown()
        await server.stop(grace_s)
