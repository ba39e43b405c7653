"""gRPC clients of drafters and verifiers: streams for the pipeline, and statuses as SybilErrors."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, Generic, NoReturn, TypeVar, cast

import sybil_engine.serving.polling  # noqa: F401  before gRPC

# isort: split
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.pipeline import PassingBlock
from sybil_engine.core import errors
from sybil_engine.core.session import Advance, Commit, SessionOpen
from sybil_engine.core.types import ModelDescription
from sybil_engine.rpc.v1 import (
    drafter_service_pb2,
    drafter_service_pb2_grpc,
    types_pb2,
    verifier_service_pb2,
    verifier_service_pb2_grpc,
)
from sybil_engine.serving import convert
from sybil_engine.serving.channels import CHANNEL_OPTIONS

Request = TypeVar("Request")
Response = TypeVar("Response")
StreamType = TypeVar("StreamType", bound="_GrpcStream[Any, Any]")

# A service that returns, perhaps under another address, is found within a second.
_OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)
_DESCRIBE_S = 10.0

_ERRORS: dict[grpc.StatusCode, type[errors.SybilError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.ContextExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Exhausted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.SessionError,
    grpc.StatusCode.ABORTED: errors.SlowReader,
}


class _GrpcStream(Generic[Request, Response]):
    """A bidirectional call whose failures are SybilErrors."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Request, Response], address: str) -> None:
        self._call = call
        self.address = address
        self._opened = asyncio.Event()

    def close(self) -> None:
        """End the session at once."""
        self._call.cancel()

    async def _open(self, request: Request) -> None:
        """Open the session and wait for the answer. Messages sent before it would make gRPC replace the status of a
        refusal with INTERNAL.
        """
        await self._write(request)
        await self._opened.wait()

    async def _write(self, request: Request) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            _fail(error, self.address)
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise errors.SessionLost(f"{self.address} has ended the session") from error

    async def _read(self) -> AsyncIterator[Response]:
        try:
            async for response in self._call:
                yield response
        except grpc.aio.AioRpcError as error:
            _fail(error, self.address)


class GrpcVerifierStream(_GrpcStream[verifier_service_pb2.VerifyRequest, verifier_service_pb2.VerifyResponse]):
    """Implements the pipeline's VerifierStream."""

    def __init__(self, stub: "verifier_service_pb2_grpc.VerifierServiceAsyncStub", address: str) -> None:
        super().__init__(stub.Verify(None), address)

    async def open(self, opening: SessionOpen) -> None:
        await self._open(verifier_service_pb2.VerifyRequest(open=convert.open_to_wire(opening)))

    async def offer(self, blocks: Sequence[PassingBlock]) -> None:
        # They are wire messages already: they come from a drafter's stream.
        for messages in convert.block_batches(cast(Sequence[types_pb2.Block], blocks)):
            await self._write(verifier_service_pb2.VerifyRequest(blocks=messages))

    async def commits(self) -> AsyncIterator[Commit]:
        async for response in self._read():
            if response.HasField("commit"):
                yield convert.commit_from_wire(response.commit)
            else:
                self._opened.set()


class GrpcDrafterStream(_GrpcStream[drafter_service_pb2.DraftRequest, drafter_service_pb2.DraftResponse]):
    """Implements the pipeline's DrafterStream."""

    def __init__(self, stub: "drafter_service_pb2_grpc.DrafterServiceAsyncStub", address: str) -> None:
        super().__init__(stub.Draft(None), address)

    async def open(self, opening: SessionOpen) -> None:
        await self._open(drafter_service_pb2.DraftRequest(open=convert.open_to_wire(opening)))

    async def advance(self, advances: Sequence[Advance]) -> None:
        for advance in advances:
            await self._write(drafter_service_pb2.DraftRequest(advance=convert.advance_to_wire(advance)))

    async def blocks(self) -> AsyncIterator[Sequence[PassingBlock]]:
        async for response in self._read():
            if response.blocks:
                convert.check_blocks(response.blocks)
                yield response.blocks
            else:
                self._opened.set()


class _ServiceClient(Generic[StreamType]):
    """One service, over one connection that all its sessions share."""

    def __init__(
        self, address: str, stub: Callable[[grpc.aio.Channel], Any], stream: Callable[[Any, str], StreamType]
    ) -> None:
        """
        Args:
            stream: starts a call for a session, given the stub and the address.
        """
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = stub(self._channel)
        self._stream = stream

    async def describe(self) -> ModelDescription:
        """What the service hosts."""
        try:
            answer = await self._stub.Describe(types_pb2.DescribeRequest(), timeout=_DESCRIBE_S)
            return convert.description_from_wire(answer)
        except grpc.aio.AioRpcError as error:
            _fail(error, self.address)

    async def serving(self) -> AsyncGenerator[bool, None]:
        """Whether the service serves, now and at each change."""
        call = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest())
        try:
            async for response in call:
                yield response.status == health_pb2.HealthCheckResponse.SERVING
        except grpc.aio.AioRpcError as error:
            _fail(error, self.address)
        finally:
            call.cancel()

    def session(self) -> AbstractContextManager[StreamType]:
        """A stream for one session, ended when the block is left."""
        return closing(self._stream(self._stub, self.address))

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


class VerifierClient(_ServiceClient[GrpcVerifierStream]):
    """A verifier."""

    def __init__(self, address: str) -> None:
        super().__init__(address, verifier_service_pb2_grpc.VerifierServiceStub, GrpcVerifierStream)

    async def tokenizer_json(self) -> bytes:
        """The target's tokenizer."""
        try:
            answer = await self._stub.GetTokenizer(verifier_service_pb2.GetTokenizerRequest(), timeout=_DESCRIBE_S)
        except grpc.aio.AioRpcError as error:
            _fail(error, self.address)
        return bytes(answer.tokenizer_json)


class DrafterClient(_ServiceClient[GrpcDrafterStream]):
    """A drafter."""

    def __init__(self, address: str) -> None:
        super().__init__(address, drafter_service_pb2_grpc.DrafterServiceStub, GrpcDrafterStream)


def _fail(error: grpc.aio.AioRpcError, address: str) -> NoReturn:
    """Raise the error for a status. A status that the other side did not choose means that the session is lost."""
    kind = _ERRORS.get(error.code(), errors.SessionLost)
    details = error.details() or error.code().name
    raise kind(details if issubclass(kind, errors.InvalidRequest) else f"{address}: {details}") from error
