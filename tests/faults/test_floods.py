"""Floods, readers that do not read and clients that leave: nobody else notices, and nothing is left. Real gRPC."""

import asyncio
import gc
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import pytest

import drafter_service.__main__
import verifier_service.__main__
from coordinator.routing import RoutingTable
from coordinator.service import running_coordinator
from coordinator.settings import CoordinatorSettings
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.types import MOST_MESSAGE_TOKENS
from sybil_engine.rpc.v1 import generation_service_pb2, types_pb2, verifier_service_pb2
from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceStub
from sybil_engine.rpc.v1.verifier_service_pb2_grpc import VerifierServiceStub
from sybil_engine.serving.channels import CHANNEL_OPTIONS
from sybil_engine.serving.outbox import MOST_EVENTS
from tests.contract.services import LIMIT_S, opening, running, running_verifier, verify
from tests.scrape import Scrape, free_ports, scraped

if TYPE_CHECKING:
    from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

PROMPT = (5, 6, 7, 8)
TOKENS = 300
# So that a reader that does not read is noticed after twenty commits, not after a thousand.
SMALL_WINDOW = (*CHANNEL_OPTIONS, ("grpc.http2.lookahead_bytes", 1024))


def message_of(tokens: int, blocks: int = 1) -> verifier_service_pb2.VerifyRequest:
    """Blocks that extend the prompt."""
    fingerprint = Ledger(PROMPT, len(PROMPT)).fingerprint(len(PROMPT))
    block = types_pb2.Block(
        position=len(PROMPT),
        prefix_fingerprint=fingerprint,
        token_ids=[9] * tokens,
        origin=types_pb2.BLOCK_ORIGIN_TRUNK,
    )
    return verifier_service_pb2.VerifyRequest(blocks=[block] * blocks)


async def follow(stub: Any, tokens: int = TOKENS) -> tuple[list[int], float]:
    """One session's tokens, and its longest pause after the first of them, in seconds."""
    call = stub.Verify(None)
    await call.write(verifier_service_pb2.VerifyRequest(open=opening(PROMPT, tokens)))
    token_ids, longest_s, last_s = list[int](), 0.0, 0.0
    async for response in call:
        if response.HasField("commit"):
            now_s = time.monotonic()
            longest_s = max(longest_s, now_s - last_s) if token_ids else 0.0
            last_s = now_s
            token_ids += [token.token_id for token in response.commit.tokens]
    return token_ids, longest_s


async def flood(stub: Any, message: verifier_service_pb2.VerifyRequest) -> NoReturn:
    """Send the message to one session after the other until cancelled."""
    while True:
        call = stub.Verify(None)
        await call.write(verifier_service_pb2.VerifyRequest(open=opening(PROMPT, 900)))
        try:
            while not call.done():
                await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        finally:
            call.cancel()


@pytest.mark.parametrize("message", [message_of(100_000), message_of(8), message_of(1, blocks=1_000)])
def test_a_flood_changes_no_token_of_another_session_and_does_not_stall_it(
    message: verifier_service_pb2.VerifyRequest,
) -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            quiet, _ = await follow(stub)
            flooding = asyncio.create_task(flood(stub, message))
            await asyncio.sleep(0.2)
            tokens, pause_s = await asyncio.wait_for(follow(stub), LIMIT_S)
            flooding.cancel()
            await asyncio.wait((flooding,))
            assert tokens == quiet
            # A flood that is not held back stalls the others for as long as it lasts. The bound is for a busy machine.
            assert pause_s < 1.5

    asyncio.run(run())


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (message_of(MOST_MESSAGE_TOKENS + 1), f"a message holds {MOST_MESSAGE_TOKENS + 1} tokens; send at most 1024"),
        (message_of(1, blocks=MOST_MESSAGE_TOKENS + 1), f"a message holds {MOST_MESSAGE_TOKENS + 1} blocks"),
        (message_of(600, blocks=2), "a message holds 1200 tokens"),
    ],
)
def test_a_message_over_the_limit_is_refused_with_a_sentence(
    message: verifier_service_pb2.VerifyRequest, words: str
) -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await asyncio.wait_for(verify(stub, opening(PROMPT, 900), message), LIMIT_S)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in (refusal.value.details() or "")
            assert await verify(stub, opening(PROMPT), message_of(MOST_MESSAGE_TOKENS)) == await verify(
                stub, opening(PROMPT)
            )

    asyncio.run(run())


@pytest.mark.parametrize("slow_reader_s", [1, 60])
def test_a_session_whose_reader_does_not_read_pauses_and_after_a_while_ends_with_a_status(
    slow_reader_s: int,
) -> None:
    port, metrics_port = free_ports(2)
    flags = ("--slow-reader-s", str(slow_reader_s), "--port", str(port), "--metrics-port", str(metrics_port))

    async def run() -> None:
        async with running_verifier(*flags) as stub:
            plain, _ = await follow(stub)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=SMALL_WINDOW) as slow:
                call = VerifierServiceStub(slow).Verify(None)
                await call.write(verifier_service_pb2.VerifyRequest(open=opening(PROMPT, TOKENS)))
                responses = aiter(call)
                await anext(responses)
                await asyncio.sleep(2.5)
                assert (await follow(stub))[0] == plain, "the others go on"
                committed = (await asyncio.to_thread(scraped, metrics_port))["committed_tokens_total"]
                assert committed <= 2 * TOKENS + MOST_EVENTS + 50, "it ran on though nobody read"
                token_ids: list[int] = []

                async def read_on() -> None:
                    async for response in responses:
                        token_ids.extend(token.token_id for token in response.commit.tokens)

                if slow_reader_s > 10:
                    await read_on()
                    assert token_ids == plain
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as end:
                        await read_on()
                    assert end.value.code() is grpc.StatusCode.ABORTED
                    assert "not been read for 1 s (--slow-reader-s)" in (end.value.details() or "")
                    assert token_ids == plain[: len(token_ids)]

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


# -------------------------------------------------------------------------------------------------- all three processes


@asynccontextmanager
async def stack(metrics_ports: list[int], *flags: str) -> AsyncIterator[tuple["GenerationServiceAsyncStub", str]]:
    """All three services, and a client."""
    ports = free_ports(2)
    arguments = [
        ("--port", str(port), "--metrics-port", str(metrics))
        for port, metrics in zip(ports, metrics_ports, strict=True)
    ]
    settings = CoordinatorSettings(port=0, slow_reader_s=1.0)
    table = RoutingTable(verifiers=(f"127.0.0.1:{ports[0]}",), drafters=(f"127.0.0.1:{ports[1]}",))
    async with (
        running(verifier_service.__main__.serve, *arguments[0], *flags),
        running(drafter_service.__main__.serve, *arguments[1], *flags),
        running_coordinator(settings, table, lambda what: None) as coordinator,
        grpc.aio.insecure_channel(coordinator.address) as channel,
    ):
        yield GenerationServiceStub(channel), coordinator.address


def request(speculation: int, tokens: int = 40) -> generation_service_pb2.GenerateRequest:
    return generation_service_pb2.GenerateRequest(
        token_ids=generation_service_pb2.TokenIds(ids=PROMPT),
        max_tokens=tokens,
        seed=7,
        speculation=speculation,  # type: ignore[arg-type]
        ignore_end_tokens=True,
    )


async def completed(stub: "GenerationServiceAsyncStub", message: generation_service_pb2.GenerateRequest) -> list[int]:
    return [token.token_id async for response in stub.Generate(message) for token in response.tokens]


def held(scrapes: list[Scrape]) -> dict[str, float]:
    """What the services hold, and this process, which hosts them."""
    gc.collect()
    return {
        "pages": sum(each["kv_cache_pages_used"] for each in scrapes),
        "sessions": sum(each["num_sessions_running"] + each["num_sessions_waiting"] for each in scrapes),
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


async def settled(metrics_ports: list[int], before: dict[str, float] | None = None) -> dict[str, float]:
    """What is held once nothing is in use any more, and no more than before, or after 10 s."""
    end_s = time.monotonic() + 10
    while True:
        now = held([await asyncio.to_thread(scraped, port) for port in metrics_ports])
        no_more = before is None or all(now[name] <= before[name] for name in now)
        if (not now["pages"] and not now["sessions"] and no_more) or time.monotonic() > end_s:
            return now
        await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
def test_many_cancellations_at_random_moments_leave_nothing() -> None:
    rng, metrics_ports = random.Random(5), free_ports(2)

    async def run() -> None:
        async with stack(metrics_ports, "--max-sessions", "8") as (stub, _):

            async def leave(number: int) -> None:
                call = stub.Generate(request(1 + number % 5, tokens=200))
                reading = asyncio.ensure_future(anext(aiter(call), None))
                await asyncio.sleep(rng.uniform(0, 0.3))
                call.cancel()
                await asyncio.wait((reading,))
                reading.cancelled() or reading.exception()

            async def leave_many(count: int) -> None:
                for start in range(0, count, 10):
                    await asyncio.gather(*map(leave, range(start, start + 10)))

            plain = await completed(stub, request(types_pb2.SPECULATION_OFF))
            await leave_many(10)
            before = await settled(metrics_ports)
            await leave_many(60)
            after = await settled(metrics_ports, before)
            assert (after["pages"], after["sessions"]) == (0, 0)
            assert all(after[name] <= before[name] for name in after), (before, after)
            for way in (types_pb2.SPECULATION_OFF, types_pb2.SPECULATION_PIPELINED):
                assert await completed(stub, request(way)) == plain

    asyncio.run(run())


def test_a_client_that_does_not_read_holds_back_nobody_and_its_request_ends_with_a_status() -> None:
    metrics_ports = free_ports(2)

    async def run() -> None:
        async with stack(metrics_ports) as (stub, address):
            plain = await completed(stub, request(types_pb2.SPECULATION_OFF, TOKENS))
            async with grpc.aio.insecure_channel(address, options=SMALL_WINDOW) as slow:
                call = GenerationServiceStub(slow).Generate(request(types_pb2.SPECULATION_OFF, 900))
                responses = aiter(call)
                first = await anext(responses)
                assert await completed(stub, request(types_pb2.SPECULATION_OFF, TOKENS)) == plain
                await asyncio.sleep(2.0)
                now = await settled(metrics_ports)
                assert (now["pages"], now["sessions"]) == (0, 0), "its session has ended"
                token_ids = [token.token_id for token in first.tokens]
                with pytest.raises(grpc.aio.AioRpcError) as end:
                    async for response in responses:
                        token_ids += [token.token_id for token in response.tokens]
                assert end.value.code() is grpc.StatusCode.ABORTED
                assert token_ids == plain[: len(token_ids)]
                resumed = request(types_pb2.SPECULATION_OFF, TOKENS)
                resumed.resume_token_ids.extend(token_ids)
                assert token_ids + await completed(stub, resumed) == plain, "it goes on with the tokens that came"

    asyncio.run(run())
