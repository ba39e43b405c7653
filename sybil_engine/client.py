"""What a program imports to talk to a coordinator.

async with connected("127.0.0.1:50051") as client:
    async for delta in client.generate(CompletionRequest("def fibonacci(n):")):
        print(delta.text, end="")
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from sybil_engine.core import errors
from sybil_engine.core.completion import Delta
from sybil_engine.core.types import (
    MOST_WINDOW_TOKENS,
    AcceptanceRule,
    ModelDescription,
    SamplingParams,
    Speculation,
)
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc, types_pb2
from sybil_engine.serving import convert
from sybil_engine.serving.channels import CHANNEL_OPTIONS
from sybil_engine.serving.convert_completion import delta_from_wire

_MOST_TOKENS = 2**31 - 1
_MOST_STOPS = 16
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.ContextExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PairMismatch,
}


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What to complete, and how.

    Attributes:
        max_tokens: None leaves it to the coordinator.
        stop: text that ends the completion; it is not part of it.
        speculation: None leaves it to the coordinator.
        window_tokens: the most drafted tokens that one pass may judge; 0 leaves it to the coordinator.

    Raises:
        InvalidRequest: a value is out of range. The coordinator would say the same; here nothing has to start first.
    """

    prompt: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    speculation: Speculation | None = None
    acceptance_rule: AcceptanceRule = AcceptanceRule.SHARED_NOISE
    window_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise errors.InvalidRequest("the prompt is empty; give at least one character to continue")
        try:
            self.prompt.encode()
        except UnicodeEncodeError:
            raise errors.InvalidRequest("the prompt is not valid UTF-8; convert it first") from None
        if not 0 <= self.seed < 2**64:
            raise errors.InvalidRequest(f"seed is {self.seed}; it must fit 64 bits without a sign")
        if self.max_tokens is not None and not 1 <= self.max_tokens <= _MOST_TOKENS:
            raise errors.InvalidRequest(
                f"max_tokens is {self.max_tokens}; it must be at least 1 and at most {_MOST_TOKENS}"
            )
        if not 0 <= self.window_tokens <= MOST_WINDOW_TOKENS:
            raise errors.InvalidRequest(
                f"window is {self.window_tokens}; it must be at least 1 and at most {MOST_WINDOW_TOKENS}, or 0 for the "
                "default"
            )
        if "" in self.stop:
            raise errors.InvalidRequest("a stop string is empty; give each at least one character")
        if len(self.stop) > _MOST_STOPS:
            raise errors.InvalidRequest(f"{len(self.stop)} stop strings were given; at most {_MOST_STOPS} are allowed")


@dataclass(frozen=True, slots=True)
class Served:
    """The models that a coordinator serves; `draft` is None where no drafter is attached."""

    target: ModelDescription
    draft: ModelDescription | None


class GenerationClient:
    """Asks one coordinator for completions."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(channel)

    async def generate(self, request: CompletionRequest) -> AsyncGenerator[Delta, None]:
        """Stream one completion; its last delta holds the ending. Closing the iterator cancels the session.

        Raises:
            InvalidRequest, ContextExceeded, PairMismatch: the coordinator refuses the request, and says why.
            Exhausted, Unavailable: it cannot serve this now.
            SessionLost: it was lost on the way. The same request gives the same tokens again.
            SybilError: it failed.
        """
        call = self._stub.Generate(_request_to_wire(request))
        tokens, ended = 0, False
        try:
            async for response in call:
                delta = delta_from_wire(response)
                tokens, ended = tokens + len(delta.tokens), delta.ending is not None
                yield delta
        except grpc.aio.AioRpcError as error:
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
            SybilError: it cannot say.
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
        """What a status means after this many tokens."""
        code, details = error.code(), (error.details() or "").strip()
        if code in _REFUSALS:
            return _REFUSALS[code](details or f"the coordinator refused the request ({code.name})")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return errors.Unavailable(
                f"what answers at {self.address} is not a coordinator; is it another service's port?"
            )
        if code is grpc.StatusCode.UNAVAILABLE and tokens:
            return errors.SessionLost(f"the coordinator at {self.address} was lost after {tokens} tokens ({details})")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            kind = errors.Unavailable if code is grpc.StatusCode.UNAVAILABLE else errors.Exhausted
            return kind(f"the coordinator at {self.address} cannot serve this now: {details}; try again later")
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


def _request_to_wire(request: CompletionRequest) -> wire.GenerateRequest:
    return wire.GenerateRequest(
        text=request.prompt,
        sampling=convert.sampling_to_wire(request.sampling),
        seed=request.seed,
        max_tokens=request.max_tokens,
        stop=request.stop,
        speculation=convert.speculation_to_wire(request.speculation)
        if request.speculation
        else types_pb2.SPECULATION_UNSPECIFIED,
        window_tokens=request.window_tokens,
        acceptance_rule=convert.acceptance_rule_to_wire(request.acceptance_rule),
    )
