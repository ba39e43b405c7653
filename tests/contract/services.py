"""Real drafter and verifier services on loopback, in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import drafter_service.__main__
import verifier_service.__main__
from sybil_engine.rpc.v1 import drafter_service_pb2, types_pb2, verifier_service_pb2
from sybil_engine.rpc.v1.drafter_service_pb2_grpc import DrafterServiceStub
from sybil_engine.rpc.v1.verifier_service_pb2_grpc import VerifierServiceStub
from sybil_engine.serving.channels import CHANNEL_OPTIONS

MAX_SESSIONS = 3
LIMIT_S = 60.0
# Untraced, a model is there seconds sooner; the wire is the same.
_ARGUMENTS = (
    *("--port", "0", "--numerics", "fast", "--no-traced"),
    *("--threads", "1", "--max-sessions", str(MAX_SESSIONS)),
)
Serve = Callable[[Sequence[str], dict[str, str], Callable[[int], None]], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(serve: Serve, *arguments: str) -> AsyncIterator[grpc.aio.Channel]:
    """A service that is ready; leaving the block drains it and waits for its end."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    service = asyncio.create_task(serve((*_ARGUMENTS, *arguments), {}, port.set_result))
    await asyncio.wait((port, service), return_when=asyncio.FIRST_COMPLETED)
    if service.done():
        await service
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port.result()}", options=CHANNEL_OPTIONS) as channel:
        await _serving(channel)
        yield channel
    service.cancel()
    await asyncio.wait((service,), timeout=LIMIT_S)
    assert service.cancelled(), "it has drained"


@asynccontextmanager
async def running_verifier(*arguments: str) -> AsyncIterator[Any]:
    async with running(verifier_service.__main__.serve, *arguments) as channel:
        yield VerifierServiceStub(channel)


@asynccontextmanager
async def running_drafter(*arguments: str) -> AsyncIterator[Any]:
    async with running(drafter_service.__main__.serve, *arguments) as channel:
        yield DrafterServiceStub(channel)


def opening(prompt: Sequence[int] = (5, 6, 7, 8), tokens: int = 12, **fields: object) -> types_pb2.SessionOpen:
    """A valid opening; `fields` override its fields."""
    values: dict[str, object] = {
        "token_ids": prompt,
        "prompt_tokens": len(prompt),
        "max_position": len(prompt) + tokens,
        "plan": plan(4),
    }
    return types_pb2.SessionOpen(**(values | fields))  # type: ignore[arg-type]


def plan(
    budget: int, speculation: types_pb2.Speculation.ValueType = types_pb2.SPECULATION_PIPELINED
) -> types_pb2.DraftPlan:
    """A plan that holds nothing back."""
    return types_pb2.DraftPlan(speculation=speculation, budget=budget, rows=1, hold_until=1)


async def verify(stub: Any, *messages: object) -> list[int]:
    """Run one session to its end and return its tokens; the client's side stays open until then."""
    call = stub.Verify(_requests(verifier_service_pb2.VerifyRequest, messages))
    token_ids: list[int] = []
    async for response in call:
        token_ids += [token.token_id for token in response.commit.tokens]
    return token_ids


async def draft(stub: Any, *messages: object, blocks: int) -> list[types_pb2.Block]:
    """Run one session until it has pushed as many blocks."""
    call = stub.Draft(_requests(drafter_service_pb2.DraftRequest, messages))
    pushed: list[types_pb2.Block] = []
    try:
        async for response in call:
            pushed += response.blocks
            if len(pushed) >= blocks:
                break
    finally:
        call.cancel()
    return pushed


async def _requests(kind: type, messages: Sequence[object]) -> AsyncIterator[object]:
    """Wrap each message into the request's field of its type, then keep the stream open."""
    for message in messages:
        match message:
            case types_pb2.SessionOpen():
                yield kind(open=message)
            case types_pb2.Block():
                yield kind(blocks=[message])
            case types_pb2.Advance():
                yield kind(advance=message)
            case _:
                yield message
    await asyncio.sleep(LIMIT_S)


async def _serving(channel: grpc.aio.Channel) -> None:
    async for status in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
        if status.status == health_pb2.HealthCheckResponse.SERVING:
            return
