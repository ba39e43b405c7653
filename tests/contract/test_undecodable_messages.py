"""What is no message of its type is the client's mistake, on every call of every service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

import drafter_service.__main__
import verifier_service.__main__
from coordinator.routing import RoutingTable
from coordinator.service import open_coordinator
from coordinator.settings import CoordinatorSettings
from sybil_engine.rpc.v1 import drafter_service_pb2, generation_service_pb2, verifier_service_pb2
from tests.contract.services import LIMIT_S, running

GARBAGE = b"\xff\xff\xff\xff"


@asynccontextmanager
async def running_coordinator() -> AsyncIterator[grpc.aio.Channel]:
    """A coordinator that waits for services: what it cannot decode, it refuses all the same."""
    async with (
        open_coordinator(CoordinatorSettings(port=0), RoutingTable()) as coordinator,
        grpc.aio.insecure_channel(coordinator.address) as channel,
    ):
        yield channel


@pytest.mark.parametrize(
    ("file", "serve"),
    [
        pytest.param(drafter_service_pb2.DESCRIPTOR, lambda: running(drafter_service.__main__.serve), id="drafter"),
        pytest.param(verifier_service_pb2.DESCRIPTOR, lambda: running(verifier_service.__main__.serve), id="verifier"),
        pytest.param(generation_service_pb2.DESCRIPTOR, running_coordinator, id="coordinator"),
    ],
)
def test_bytes_that_are_no_message_are_an_invalid_argument_on_every_call(
    file: FileDescriptor, serve: Callable[[], AbstractAsyncContextManager[grpc.aio.Channel]]
) -> None:
    async def run() -> None:
        methods = [method for service in file.services_by_name.values() for method in service.methods]
        async with serve() as channel:
            for method in methods:
                error = await asyncio.wait_for(_refusal(channel, method), LIMIT_S)
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (method.name, error.details())
                assert "cannot be decoded" in (error.details() or "")

    asyncio.run(run())


async def _refusal(channel: grpc.aio.Channel, method: MethodDescriptor) -> grpc.aio.AioRpcError:
    """What a call is told whose request, or first message, is garbage."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    # Without serializers messages are bytes, which the stubs do not know.
    raw: Any = channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if method.client_streaming:
            async for _ in raw.stream_stream(path)(iter([GARBAGE])):
                pass
        elif method.server_streaming:
            async for _ in raw.unary_stream(path)(GARBAGE):
                pass
        else:
            await raw.unary_unary(path)(GARBAGE)
    return caught.value
