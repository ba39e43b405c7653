"""A client of GenerationService that speaks in pieces and sentences."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields

import grpc

from sybil_cli.completion import CompletionRequest, Ending, Piece, Served
from sybil_cli.exits import CommandFailed, UserMistake
from sybil_cli.stats import Counts
from sybil_engine.core.types import FinishReason, Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc, types_pb2
from sybil_engine.serving import convert

# As in serving/server.py, whose import would load server code that a client does not need.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_FINISH_REASONS = {
    types_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    types_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_USER_MISTAKES = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class GenerationClient:
    """Asks one coordinator for completions."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(channel)

    async def generate(
        self, request: CompletionRequest, timeout_s: float | None = None
    ) -> AsyncGenerator[Piece | Ending, None]:
        """Stream one completion: its pieces, then its ending. Closing the iterator cancels the session.

        Raises:
            CommandFailed: the coordinator refuses, or cannot be reached any more.
        """
        call = self._stub.Generate(_request_to_wire(request), timeout=timeout_s)
        tokens = 0
        ended = False
        try:
            async for response in call:
                if response.text or response.tokens:
                    tokens += len(response.tokens)
                    yield _piece_from_wire(response)
                if response.HasField("completion"):
                    ended = True
                    yield _ending_from_wire(response.completion)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, request.seed, tokens, timeout_s) from error
        finally:
            call.cancel()
        if not ended:
            raise CommandFailed(
                f"the coordinator at {self.address} ended the stream without saying how the completion ended; "
                "look at its log"
            )

    async def describe(self) -> Served:
        """What this coordinator serves.

        Raises:
            CommandFailed: it cannot say.
        """
        try:
            answer = await self._stub.DescribePair(wire.DescribePairRequest())
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        return Served(
            target=convert.description_from_wire(answer.target),
            draft=convert.description_from_wire(answer.draft) if answer.HasField("draft") else None,
        )

    def _failure(
        self, error: grpc.aio.AioRpcError, seed: int = 0, tokens: int = 0, timeout_s: float | None = None
    ) -> CommandFailed:
        code, details = error.code(), (error.details() or "").strip()
        if code in _USER_MISTAKES:
            return UserMistake(details or f"the coordinator refused the request ({code.name})")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return CommandFailed(
                f"the completion was not done within {timeout_s:g} s; allow more with --timeout, "
                "or ask for less with --max-tokens"
                if timeout_s
                else f"the coordinator at {self.address} ended the completion at a deadline of its own: {details}"
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return CommandFailed(f"what answers at {self.address} is not a coordinator; is it another service's port?")
        if code is grpc.StatusCode.UNAVAILABLE and tokens:
            return CommandFailed(
                f"the coordinator at {self.address} was lost after {tokens} tokens ({details}); "
                f"run this again with --seed {seed} to get the same tokens"
            )
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return CommandFailed(f"the coordinator at {self.address} cannot serve this now: {details}; try again later")
        return CommandFailed(f"the coordinator at {self.address} failed: {details or code.name}; look at its log")


@asynccontextmanager
async def connected(address: str, timeout_s: float = 10.0) -> AsyncIterator[GenerationClient]:
    """A client of the coordinator at this address.

    Raises:
        CommandFailed: nobody answers there.
    """
    async with grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        if not await _reaches(channel, timeout_s):
            raise CommandFailed(f"no coordinator answers at {address}; start one with `sybil up`")
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
    message = wire.GenerateRequest(
        text=request.prompt,
        sampling=convert.sampling_to_wire(request.sampling),
        seed=request.seed,
        stop=request.stop,
        window_tokens=request.window_tokens,
        acceptance_rule=convert.acceptance_rule_to_wire(request.acceptance_rule),
    )
    if request.max_tokens is not None:
        message.max_tokens = request.max_tokens
    if request.speculation is not None:
        message.speculation = convert.speculation_to_wire(request.speculation)
    return message


def _piece_from_wire(response: wire.GenerateResponse) -> Piece:
    tokens = [convert.token_from_wire(each) for each in response.tokens]
    return Piece(response.text, tuple(each.token_id for each in tokens), tuple(each.origin for each in tokens))


def _ending_from_wire(completion: wire.Completion) -> Ending:
    usage = completion.usage
    return Ending(
        finish_reason=_FINISH_REASONS.get(completion.finish_reason),
        seed=completion.seed,
        counts=Counts(*(getattr(usage, field.name) for field in fields(Counts))),
        passes={
            convert.speculation_from_wire(each.speculation, Speculation.OFF): each.passes for each in completion.passes
        },
        reason=completion.reason,
    )
