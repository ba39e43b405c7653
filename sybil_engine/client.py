"""What a program imports to talk to a coordinator.

async with connected("127.0.0.1:50051") as client:
    async for delta in client.generate(GenerationRequest("def fibonacci(n):")):
        print(delta.text, end="")
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from sybil_engine.core import errors
from sybil_engine.core.completion import Delta
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import ModelDescription
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc
from sybil_engine.serving import convert
from sybil_engine.serving.channels import CHANNEL_OPTIONS
from sybil_engine.serving.convert_completion import delta_from_wire, request_to_wire
from sybil_engine.serving.retry import retry_s

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.ContextExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PairMismatch,
    grpc.StatusCode.ABORTED: errors.SlowReader,
}


@dataclass(frozen=True, slots=True)
class Served:
    """The models that a coordinator serves; `draft` is None if no drafter is attached."""

    target: ModelDescription
    draft: ModelDescription | None


class GenerationClient:
    """Asks one coordinator for completions."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.name = f"the coordinator at {address}"
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(channel)

    async def generate(self, request: GenerationRequest, timeout_s: float | None = None) -> AsyncGenerator[Delta, None]:
        """Stream one completion; its last delta holds the ending. Closing the iterator cancels the session.

        Args:
            timeout_s: when the completion must be done, in seconds from now. The coordinator refuses at once what it
                cannot finish until then.

        Raises:
            InvalidRequest, ContextExceeded, PairMismatch: the coordinator refuses the request; the error says why.
            Exhausted: it cannot serve the request now; the error's `retry_s` says when to try again.
            Unavailable: it cannot serve the request now.
            TimeoutError: the completion was not done in time.
            SlowReader: the deltas were not read for too long.
            SessionLost: the connection was lost. The same request gives the same tokens again.
            SybilError: it failed.
        """
        call = self._stub.Generate(request_to_wire(request), timeout=timeout_s)
        tokens, ended = 0, False
        try:
            async for response in call:
                delta = delta_from_wire(response)
                tokens, ended = tokens + len(delta.tokens), delta.ending is not None
                yield delta
        except grpc.aio.AioRpcError as error:
            if timeout_s is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError(f"the completion was not done within {timeout_s:g} s") from error
            raise self._failure(error, tokens) from error
        finally:
            call.cancel()
        if not ended:
            raise errors.SybilError(
                f"the coordinator at {self.address} ended the stream without saying how the completion ended; "
                "look at its log"
            )

    async def describe(self) -> Served:
        """What this coordinator serves.

        Raises:
            SybilError: it cannot be reached, or does not know yet.
        """
        try:
            answer = await self._stub.DescribePair(wire.DescribePairRequest())
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        return Served(
            target=convert.description_from_wire(answer.target),
            draft=convert.description_from_wire(answer.draft) if answer.HasField("draft") else None,
        )

    def _failure(self, error: grpc.aio.AioRpcError, tokens: int = 0) -> errors.SybilError:
        """The error for a status that came after this many tokens."""
        code, details = error.code(), (error.details() or "").strip()
        if code in _REFUSALS:
            return _REFUSALS[code](details or f"the coordinator refused the request ({code.name})")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return errors.Unavailable(
                f"what answers at {self.address} is not a coordinator; is it another service's port?"
            )
        if code is grpc.StatusCode.UNAVAILABLE and tokens:
            return errors.SessionLost(f"the coordinator at {self.address} was lost after {tokens} tokens ({details})")
        if code is grpc.StatusCode.UNAVAILABLE:
            return errors.Unavailable(
                f"the coordinator at {self.address} cannot serve this now: {details}; try again later"
            )
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            delay_s = retry_s(error)
            advice = "; try again later" if delay_s is None else ""
            return errors.Exhausted(
                f"the coordinator at {self.address} cannot serve this now: {details}{advice}", delay_s
            )
        return errors.SybilError(f"the coordinator at {self.address} failed: {details or code.name}; look at its log")


@asynccontextmanager
async def connected(address: str, timeout_s: float = 10.0) -> AsyncIterator[GenerationClient]:
    """A client of the coordinator at this address.

    Raises:
        Unavailable: nobody answers there.
    """
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        if not await _reaches(channel, timeout_s):
            raise errors.Unavailable(f"no coordinator answers at {address}; start one with `sybil up`")
        yield GenerationClient(address, channel)


async def _reaches(channel: grpc.aio.Channel, timeout_s: float) -> bool:
    """Whether the channel connects at its first try."""
    try:
        async with asyncio.timeout(timeout_s):
            state = channel.get_state(try_to_connect=True)
            while state not in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY
