"""GenerationService over real gRPC on loopback, against services without models."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from coordinator.routing import RoutingTable
from coordinator.service import Coordinator, open_coordinator, running_coordinator
from coordinator.settings import CoordinatorSettings
from sybil_engine.client import connected
from sybil_engine.core.errors import Exhausted, PairMismatch, Unavailable
from sybil_engine.core.plan import DraftPlan, first_plan
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceStub
from tests.contract.coordinator.services import ToyDrafter, ToyService, ToyVerifier, serving
from tests.unit.coordinator.toy import ahead, asynchronous, toy_completion, toy_description

if TYPE_CHECKING:
    from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

SETTINGS = CoordinatorSettings(port=0, start_s=10, drafter_start_s=5, reopen_s=5, grace_s=2, max_waiting=2)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
PROMPT = (40, 41, 42)
SEED = 7


@dataclass
class ServedCoordinator:
    """A coordinator, its services, and a client."""

    coordinator: Coordinator
    stub: "GenerationServiceAsyncStub"
    verifiers: list[ToyVerifier]
    drafters: list[ToyDrafter]
    services: list[ToyService]

    def slots_in_use(self) -> int:
        return sum(each.sessions for each in self.verifiers) + sum(each.sessions for each in self.drafters)

    async def slots_free(self) -> bool:
        """Whether every slot is free within a second."""
        return await eventually(lambda: self.slots_in_use() == 0)

    async def every_place_is_free(self) -> bool:
        """Whether the coordinator lets as many requests run at once as its one verifier has slots."""
        (verifier,) = self.verifiers
        slots = verifier.description.max_sessions
        calls = [self.stub.Generate(request(max_tokens=900)) for _ in range(slots)]
        readers = [asyncio.ensure_future(anext(aiter(call))) for call in calls]
        all_run = await eventually(lambda: verifier.sessions == slots)
        for call in calls:
            call.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        return all_run and await self.slots_free()

    async def turned_away(self) -> bool:
        """Whether a request is refused because too many are waiting, instead of waiting itself."""
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await generated(self.stub, request(), timeout_s=0.2)
        assert refusal.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
        return "are waiting, as many as may" in (refusal.value.details() or "")


@asynccontextmanager
async def scene(
    *services: ToyVerifier | ToyDrafter, settings: CoordinatorSettings = SETTINGS
) -> AsyncIterator[ServedCoordinator]:
    async with serving(*services) as running:
        table = RoutingTable(
            drafters=tuple(each.address for each in running if isinstance(each.servicer, ToyDrafter)),
            verifiers=tuple(each.address for each in running if isinstance(each.servicer, ToyVerifier)),
        )
        async with (
            running_coordinator(settings, table, lambda what: None) as coordinator,
            grpc.aio.insecure_channel(coordinator.address) as channel,
        ):
            stub: GenerationServiceAsyncStub = GenerationServiceStub(channel)
            yield ServedCoordinator(
                coordinator,
                stub,
                [each for each in services if isinstance(each, ToyVerifier)],
                [each for each in services if isinstance(each, ToyDrafter)],
                running,
            )


@asynccontextmanager
async def health(here: ServedCoordinator) -> AsyncIterator[list[int]]:
    """Every status that a watcher of the coordinator's health has seen."""
    seen: list[int] = []

    async def watch(call: grpc.aio.UnaryStreamCall[Any, health_pb2.HealthCheckResponse]) -> None:
        while isinstance(response := await call.read(), health_pb2.HealthCheckResponse):
            seen.append(response.status)

    async with grpc.aio.insecure_channel(here.coordinator.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = asyncio.create_task(watch(stub.Watch(health_pb2.HealthCheckRequest())))
        yield seen
        watching.cancel()
        await asyncio.wait((watching,))


def request(max_tokens: int = 60, **fields: object) -> wire.GenerateRequest:
    message = wire.GenerateRequest(token_ids=wire.TokenIds(ids=PROMPT), seed=SEED, max_tokens=max_tokens)
    message.MergeFrom(wire.GenerateRequest(**fields))  # type: ignore[arg-type]  # protobuf checks the names
    return message


async def generated(
    stub: "GenerationServiceAsyncStub", message: wire.GenerateRequest, timeout_s: float | None = None
) -> list[wire.GenerateResponse]:
    return [response async for response in stub.Generate(message, timeout=timeout_s)]


def tokens(responses: list[wire.GenerateResponse]) -> tuple[int, ...]:
    return tuple(token.token_id for response in responses for token in response.tokens)


async def eventually(holds: Callable[[], bool], limit_s: float = 2.0) -> bool:
    for _ in range(int(limit_s / 0.01)):
        if holds():
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize(
    "speculation", [types_pb2.SPECULATION_OFF, types_pb2.SPECULATION_LOCKSTEP, types_pb2.SPECULATION_PIPELINED]
)
@asynchronous
async def test_every_way_to_speculate_streams_the_targets_tokens(speculation: types_pb2.Speculation.ValueType) -> None:
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        responses = await generated(here.stub, request(speculation=speculation, logprobs=True))
        assert tokens(responses) == toy_completion(PROMPT, SEED, 60)
        assert all(token.origin and token.HasField("logprob") for each in responses for token in each.tokens)
        ending = responses[-1].completion
        assert (ending.seed, ending.speculation) == (SEED, speculation)
        assert ending.finish_reason == types_pb2.FINISH_REASON_LENGTH
        assert (ending.usage.prompt_tokens, ending.usage.completion_tokens) == (3, 60)
        assert (ending.usage.accepted_tokens > 0) == (speculation != types_pb2.SPECULATION_OFF)
        assert await here.slots_free()


@asynchronous
async def test_text_is_what_the_tokens_say_and_a_stop_string_is_never_sent() -> None:
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        whole = "".join([each.text for each in await generated(here.stub, request())])
        stop = whole[20:24]
        responses = await generated(here.stub, request(stop=[stop]))
        text = "".join(each.text for each in responses)
        assert text == whole[: whole.index(stop)]
        assert responses[-1].completion.finish_reason == types_pb2.FINISH_REASON_STOP
        assert tokens(responses) == toy_completion(PROMPT, SEED, 60)[: len(text) + len(stop)]
        assert await here.slots_free()


@asynchronous
async def test_a_stop_token_ends_the_completion_and_is_its_last_token() -> None:
    expected = toy_completion(PROMPT, SEED, 60)
    stop = expected[10]
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        responses = await generated(here.stub, request(stop_token_ids=[stop]))
        assert tokens(responses) == expected[: expected.index(stop) + 1]
        assert responses[-1].completion.finish_reason == types_pb2.FINISH_REASON_STOP


@asynchronous
async def test_a_client_that_leaves_frees_every_slot_at_once() -> None:
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        call = here.stub.Generate(request(max_tokens=900))
        await anext(aiter(call))
        assert here.slots_in_use() == 2
        call.cancel()
        assert await here.slots_free()


@asynchronous
async def test_a_deadline_frees_every_slot() -> None:
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in here.stub.Generate(request(max_tokens=900), timeout=0.3):
                pass
        assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert await here.slots_free()


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (wire.GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "set either text or token_ids"),
        (wire.GenerateRequest(text="a", max_tokens=-1), grpc.StatusCode.INVALID_ARGUMENT, "max_tokens is -1"),
        (wire.GenerateRequest(text="a" * 2000), grpc.StatusCode.OUT_OF_RANGE, "the prompt has 2000 tokens"),
        (wire.GenerateRequest(text="a", max_tokens=5000), grpc.StatusCode.OUT_OF_RANGE, "1023 fit the context"),
        (
            wire.GenerateRequest(text="a", speculation=99),  # type: ignore[arg-type]
            grpc.StatusCode.INVALID_ARGUMENT,
            "choose one of off, lockstep, pipelined, hedged, auto",
        ),
    ],
)
@asynchronous
async def test_bad_input_gets_a_status_and_words_and_harms_nobody(
    message: wire.GenerateRequest, code: grpc.StatusCode, words: str
) -> None:
    async with scene(ToyVerifier()) as here:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await generated(here.stub, message)
        assert failure.value.code() == code
        assert words in str(failure.value.details())
        assert tokens(await generated(here.stub, request())) == toy_completion(PROMPT, SEED, 60)
        assert await here.slots_free()


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT),
        (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT),
        (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.OUT_OF_RANGE),
        (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
@asynchronous
async def test_what_the_verifier_refuses_reaches_the_client(refusal: grpc.StatusCode, code: grpc.StatusCode) -> None:
    async with scene(
        ToyVerifier(refuse_with=refusal), ToyDrafter(), settings=SETTINGS.model_copy(update={"reopen_s": 1})
    ) as here:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await generated(here.stub, request())
        assert failure.value.code() == code
        assert refusal.name in str(failure.value.details())
        assert await here.slots_free()


@asynchronous
async def test_malformed_bytes_are_refused_and_harm_nobody() -> None:
    async with scene(ToyVerifier()) as here:
        async with grpc.aio.insecure_channel(here.coordinator.address) as channel:
            call: Any = channel.unary_stream("/sybil_engine.rpc.v1.GenerationService/Generate", None, None)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                async for _ in call(b"\xff\xff\xff\xff"):
                    pass
            assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "the request cannot be decoded" in (failure.value.details() or "")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                async for _ in call(b"\x0a" + b"x" * 5_000_000):
                    pass
            assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert tokens(await generated(here.stub, request())) == toy_completion(PROMPT, SEED, 60)


@asynchronous
async def test_requests_beyond_the_slots_wait_and_beyond_the_queue_are_turned_away() -> None:
    verifier = ToyVerifier(toy_description(max_sessions=2))
    async with scene(verifier, ToyDrafter()) as here:
        calls = [asyncio.create_task(generated(here.stub, request(max_tokens=100))) for _ in range(7)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
        served = [each for each in results if not isinstance(each, BaseException)]
        assert len(served) == 4
        assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all(tokens(each) == toy_completion(PROMPT, SEED, 100) for each in served)
        assert verifier.most_sessions == 2
        assert await here.slots_free()


async def retry_delay_s(stub: "GenerationServiceAsyncStub", message: wire.GenerateRequest, **options: Any) -> float:
    """After how long a client that is refused for want of room may try again, by the status that it gets."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await generated(stub, message, **options)
    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(refusal.value)
    info = error_details_pb2.RetryInfo()
    assert [detail.Unpack(info) for detail in status.details] == [True]
    return float(info.retry_delay.ToTimedelta().total_seconds())


@asynchronous
async def test_a_refused_client_is_told_when_to_try_again() -> None:
    verifier = ToyVerifier(toy_description(max_sessions=1), pass_s=0.005)
    async with scene(verifier, settings=SETTINGS.model_copy(update={"max_waiting": 0})) as here:
        running = here.stub.Generate(request(max_tokens=900))
        await anext(aiter(running))
        assert 0.1 <= await retry_delay_s(here.stub, request()) <= 60
        async with connected(here.coordinator.address) as client:
            with pytest.raises(
                Exhausted, match=r"cannot serve this now: 1 requests .* try again in \d+\.\d s$"
            ) as refusal:
                await anext(client.generate(GenerationRequest(PROMPT)))
        assert refusal.value.retry_s
        running.cancel()


@asynchronous
async def test_a_request_whose_deadline_cannot_be_met_is_refused_at_once() -> None:
    verifier = ToyVerifier(toy_description(max_sessions=2), pass_s=0.005)
    async with scene(verifier) as here:
        await generated(here.stub, request(max_tokens=200))
        asked_s = time.monotonic()
        assert await retry_delay_s(here.stub, request(max_tokens=900), timeout_s=1) > 0
        assert time.monotonic() - asked_s < 0.5
        assert tokens(await generated(here.stub, request(), timeout_s=30)) == toy_completion(PROMPT, SEED, 60)
        assert await here.every_place_is_free()


@asynchronous
async def test_requests_of_a_higher_priority_start_first_and_users_take_turns() -> None:
    verifier = ToyVerifier(toy_description(max_sessions=1))
    settings = SETTINGS.model_copy(update={"max_waiting": 9, "max_priority": 1})
    async with scene(verifier, settings=settings) as here:
        running = here.stub.Generate(request(max_tokens=900))
        await anext(aiter(running))
        asked: list[dict[str, Any]] = [
            {"user": "ada"},
            {"user": "ada"},
            {"user": "bob"},
            {"priority": 1},
            {"priority": -1},
        ]
        calls = []
        for seed, fields in enumerate(asked):
            calls.append(asyncio.create_task(generated(here.stub, request(max_tokens=1, **fields | {"seed": seed}))))
            await asyncio.sleep(0.05)
        running.cancel()
        results = await asyncio.gather(*calls)
        assert [opening.seed for opening in verifier.openings[1:]] == [3, 0, 2, 1, 4]
        assert all(each[-1].completion.usage.queue_ns > 0 for each in results)
        with pytest.raises(grpc.aio.AioRpcError, match="priority is 2; this coordinator allows at most 1"):
            await generated(here.stub, request(priority=2))


@asynchronous
async def test_a_requests_priority_reaches_both_services() -> None:
    verifier, drafter = ToyVerifier(), ToyDrafter()
    async with scene(verifier, drafter, settings=SETTINGS.model_copy(update={"max_priority": 7})) as here:
        for priority in (7, -2):
            await generated(here.stub, request(priority=priority, speculation=types_pb2.SPECULATION_LOCKSTEP))
        assert [opening.priority for opening in verifier.openings] == [7, -2]
        assert [opening.priority for opening in drafter.openings] == [7, -2]


@asynchronous
async def test_a_verifier_that_is_gone_leaves_no_room() -> None:
    gone, stays = ToyVerifier(toy_description(max_sessions=2)), ToyVerifier(toy_description(max_sessions=1))
    async with scene(gone, stays) as here:
        assert here.coordinator.router.room == 3
        await here.services[0].stop()
        assert await eventually(lambda: here.coordinator.router.room == 1)
        calls = [asyncio.create_task(generated(here.stub, request())) for _ in range(3)]
        await asyncio.gather(*calls)
        assert stays.most_sessions == 1
        assert [opening.seed for opening in stays.openings] == [SEED] * 3


@asynchronous
async def test_a_request_that_leaves_the_queue_makes_room() -> None:
    verifier = ToyVerifier(toy_description(max_sessions=1), pass_s=0.005)
    async with scene(verifier, settings=SETTINGS.model_copy(update={"max_waiting": 1})) as here:
        running = here.stub.Generate(request(max_tokens=900))
        await anext(aiter(running))
        waiting = here.stub.Generate(request())
        reading = asyncio.ensure_future(anext(aiter(waiting)))
        await asyncio.sleep(0.2)
        assert await here.turned_away()
        waiting.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert not await here.turned_away()
        running.cancel()
        assert await here.slots_free()
        assert await here.every_place_is_free()


@asynchronous
async def test_tokens_that_a_client_has_are_not_sent_again() -> None:
    expected = toy_completion(PROMPT, SEED, 60)
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        responses = await generated(here.stub, request(resume_token_ids=expected[:25]))
        assert tokens(responses) == expected[25:]
        assert responses[-1].completion.usage.completion_tokens == 35
        (ending,) = await generated(here.stub, request(resume_token_ids=expected))
        assert ending.completion.finish_reason == types_pb2.FINISH_REASON_LENGTH
        assert not ending.tokens


@asynchronous
async def test_a_verifier_that_breaks_is_replaced_and_the_tokens_are_the_same() -> None:
    breaking, other = ToyVerifier(break_after=5), ToyVerifier()
    async with scene(breaking, other, ToyDrafter()) as here:
        # The first of two idle verifiers is chosen.
        responses = await generated(here.stub, request())
        assert tokens(responses) == toy_completion(PROMPT, SEED, 60)
        assert responses[-1].completion.usage.reopened_streams == 1
        assert len(breaking.openings) == len(other.openings) == 1
        assert await here.slots_free()


@asynchronous
async def test_a_verifier_that_fails_in_every_pass_is_told_soon_in_its_own_words() -> None:
    settings = SETTINGS.model_copy(update={"reopen_s": 60})
    async with scene(ToyVerifier(break_after=0), settings=settings) as here, asyncio.timeout(10):
        with pytest.raises(grpc.aio.AioRpcError, match=r"broke 5 times in a row .* the toy breaks here"):
            await generated(here.stub, request())
        assert len(here.verifiers[0].openings) == 5
        assert await here.slots_free()


@asynchronous
async def test_the_only_verifier_may_crash_and_come_back() -> None:
    async with scene(ToyVerifier(pass_s=0.005), ToyDrafter()) as here:
        call = asyncio.create_task(generated(here.stub, request(max_tokens=200)))
        assert await eventually(lambda: here.slots_in_use() == 2)
        await here.services[0].stop()
        await asyncio.sleep(0.3)
        await here.services[0].start()
        responses = await call
        assert tokens(responses) == toy_completion(PROMPT, SEED, 200)
        assert responses[-1].completion.usage.reopened_streams == 1


@asynchronous
async def test_a_drafter_may_crash_and_come_back_and_is_attached_again() -> None:
    drafter = ToyDrafter()
    async with scene(ToyVerifier(pass_s=0.005), drafter) as here:
        call = asyncio.create_task(generated(here.stub, request(max_tokens=400)))
        assert await eventually(lambda: bool(drafter.advances))
        await here.services[1].stop()
        await asyncio.sleep(0.2)
        await here.services[1].start()
        responses = await call
        assert tokens(responses) == toy_completion(PROMPT, SEED, 400)
        assert len(drafter.openings) == 2
        # Both drafters helped: the second one's context began with the ledger.
        second = drafter.openings[1]
        assert second.token_ids == PROMPT + toy_completion(PROMPT, SEED, len(second.token_ids) - len(PROMPT))


@asynchronous
async def test_blocks_reach_the_verifier_byte_for_byte_as_the_drafter_sent_them() -> None:
    def of_a_newer_version(block: types_pb2.Block, sent: int) -> types_pb2.Block:
        # Field 2000 is one that nobody here knows.
        block.chances[:] = [0.25] * len(block.token_ids)
        return types_pb2.Block.FromString(block.SerializeToString() + b"\x82\x7d\x03abc")

    verifier, drafter = ToyVerifier(), ToyDrafter(spoil=of_a_newer_version)
    async with scene(verifier, drafter) as here:
        responses = await generated(here.stub, request())
        assert tokens(responses) == toy_completion(PROMPT, SEED, 60)
    assert len(verifier.blocks) > 10
    assert verifier.blocks == drafter.blocks[: len(verifier.blocks)]
    assert all(b"abc" in block for block in verifier.blocks)


def distribution(*probabilities: float, token_ids: tuple[int, ...] = (1, 2)) -> types_pb2.Distribution:
    return types_pb2.Distribution(token_ids=token_ids, probabilities=probabilities)


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "no tokens": {"token_ids": []},
    "too many chances": {"chances": [0.5, 0.5]},
    "a chance that is no number": {"chances": [math.nan]},
    "a chance of 1.5": {"chances": [1.5]},
    "no origin": {"origin": types_pb2.BLOCK_ORIGIN_UNSPECIFIED},
    "an unknown origin": {"origin": 77},
    "too many distributions": {"distributions": [distribution(0.5, 0.5)] * 2},
    "a distribution of nothing": {"distributions": [distribution(token_ids=())]},
    "a distribution without probabilities": {"distributions": [distribution()]},
    "a probability that is no number": {"distributions": [distribution(math.nan, 0.5)]},
    "a probability of 2": {"distributions": [distribution(2.0, 0.5)]},
}


@pytest.mark.parametrize("fields", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@asynchronous
async def test_a_drafter_that_says_something_impossible_loses_its_stream_and_the_client_nothing(
    fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def spoilt(block: types_pb2.Block, sent: int) -> types_pb2.Block:
        if sent == 5:
            for name, value in fields.items():
                block.ClearField(name)  # type: ignore[arg-type]  # protobuf checks the name
                block.MergeFrom(types_pb2.Block(**{name: value}))
        return block

    caplog.set_level(logging.CRITICAL)
    verifier, drafter = ToyVerifier(), ToyDrafter(spoil=spoilt)
    async with scene(verifier, drafter) as here:
        reading = asyncio.create_task(generated(here.stub, request(max_tokens=200)))
        assert await eventually(lambda: bool(drafter.openings) and not drafter.sessions)
        assert verifier.sessions == 1, "the completion goes on"
        responses = await reading
        assert tokens(responses) == toy_completion(PROMPT, SEED, 200)
        usage = responses[-1].completion.usage
        assert (usage.drafted_tokens, usage.reopened_streams) == (5, 0)
        assert len(verifier.openings) == len(drafter.openings) == 1
        assert verifier.blocks == drafter.blocks[:5]
        assert await here.slots_free()


@asynchronous
async def test_a_drafter_that_is_attached_again_is_opened_with_the_latest_plan_and_a_verifier_with_the_first() -> None:
    def narrower(commits: int) -> DraftPlan:
        return DraftPlan(Speculation.PIPELINED, budget=max(3, 20 - commits), least_chance=0.125)

    verifiers = ToyVerifier(break_after=12, plans=narrower), ToyVerifier(plans=narrower)
    drafter = ToyDrafter(break_after=8)
    async with scene(*verifiers, drafter) as here:
        responses = await generated(here.stub, request(max_tokens=100, speculation=types_pb2.SPECULATION_AUTO))
        assert tokens(responses) == toy_completion(PROMPT, SEED, 100)
    first = first_plan(Speculation.AUTO)
    assert [opening.plan for each in verifiers for opening in each.openings] == [first, first]
    assert drafter.openings[0].plan == first
    assert drafter.openings[-1].plan.speculation is Speculation.PIPELINED
    assert drafter.openings[-1].plan.least_chance == 0.125


@asynchronous
async def test_a_drafter_gets_what_it_reads_of_every_commit() -> None:
    drafter = ToyDrafter()
    async with scene(ToyVerifier(), drafter) as here:
        await generated(here.stub, request())
    ends = [len(PROMPT), *(each.position + len(each.token_ids) for each in drafter.advances)]
    assert [each.position for each in drafter.advances] == ends[:-1]
    assert {each.plan for each in drafter.advances} == {ahead(0)}


@asynchronous
async def test_every_response_has_one_origin() -> None:
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        responses = await generated(here.stub, request())
        origins = [{token.origin for token in each.tokens} for each in responses]
        assert all(len(each) == 1 for each in origins)
        assert {types_pb2.TOKEN_ORIGIN_DRAFTED} in origins


@asynchronous
async def test_without_any_drafter_requests_are_served() -> None:
    async with scene(ToyVerifier()) as here:
        responses = await generated(here.stub, request())
        assert tokens(responses) == toy_completion(PROMPT, SEED, 60)
        assert responses[-1].completion.usage.drafted_tokens == 0


@pytest.mark.parametrize(("draft_core", "shares"), [("here/0", True), ("here/1", False)])
@asynchronous
async def test_a_verifier_is_told_whether_drafting_takes_time_from_it(draft_core: str, shares: bool) -> None:
    verifier = ToyVerifier(toy_description("toy-target", processors=("here/0",)))
    async with scene(verifier, ToyDrafter(toy_description("toy-draft", processors=(draft_core,)))) as here:
        await generated(here.stub, request())
        assert [opening.shares_processor for opening in verifier.openings] == [shares]


@asynchronous
async def test_a_pair_that_does_not_match_is_refused_before_any_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    drafter = ToyDrafter(toy_description("stranger", tokenizer_fingerprint="else", tokenizer_parts={"merges": "x"}))
    with pytest.raises(PairMismatch, match="fingerprint else and toy; they differ in merges, vocabulary"):
        async with scene(ToyVerifier(), drafter):
            pass
    assert not drafter.openings


@asynchronous
async def test_a_drafter_that_comes_back_with_another_model_is_not_used() -> None:
    drafter = ToyDrafter()
    async with scene(ToyVerifier(), drafter) as here:
        await here.services[1].stop()
        drafter.description = toy_description("stranger", tokenizer_fingerprint="else")
        await here.services[1].start()
        await asyncio.sleep(0.5)
        responses = await generated(here.stub, request())
        assert tokens(responses) == toy_completion(PROMPT, SEED, 60)
        assert not drafter.openings
        assert not (await here.stub.DescribePair(wire.DescribePairRequest())).HasField("draft")


@asynchronous
async def test_waiting_for_a_verifier_says_so_and_ends() -> None:
    said: list[str] = []
    table = RoutingTable(verifiers=("127.0.0.1:1",))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        async with running_coordinator(SETTINGS.model_copy(update={"start_s": 1.5}), table, said.append):
            pass
    assert len(said) >= 2
    assert all("waiting for a verifier" in words for words in said)


@asynchronous
async def test_health_says_whether_requests_are_served() -> None:
    async with (
        serving(ToyVerifier()) as (verifier,),
        open_coordinator(SETTINGS, RoutingTable()) as coordinator,
        grpc.aio.insecure_channel(coordinator.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="sybil_engine.rpc.v1.GenerationService")
        assert (await stub.Check(asked)).status == NOT_SERVING
        coordinator.router.route(RoutingTable(verifiers=(verifier.address,)))
        await coordinator.start_serving(lambda what: None)
        assert (await stub.Check(asked)).status == SERVING


@pytest.mark.parametrize("returns", ["the same", "another"])
@asynchronous
async def test_health_follows_the_only_verifier_and_a_request_in_between_waits(returns: str) -> None:
    async with scene(ToyVerifier(), ToyDrafter()) as here, serving(ToyVerifier()) as (other,), health(here) as seen:
        assert await eventually(lambda: seen == [SERVING])
        await here.services[0].stop()
        assert await eventually(lambda: seen == [SERVING, NOT_SERVING])
        call = asyncio.create_task(generated(here.stub, request()))
        await asyncio.sleep(0.2)
        assert not call.done()
        if returns == "the same":
            await here.services[0].start()
        else:
            here.coordinator.router.route(RoutingTable(verifiers=(other.address,)))
        assert await eventually(lambda: seen == [SERVING, NOT_SERVING, SERVING])
        assert tokens(await call) == toy_completion(PROMPT, SEED, 60)


@asynchronous
async def test_a_verifier_that_breaks_a_session_and_serves_on_is_no_outage() -> None:
    async with scene(ToyVerifier(break_after=5)) as here, health(here) as seen:
        responses = await generated(here.stub, request())
        assert responses[-1].completion.usage.reopened_streams > 5
        assert tokens(responses) == toy_completion(PROMPT, SEED, 60)
        await asyncio.sleep(0.5)
        assert seen == [SERVING]


@asynchronous
async def test_a_running_request_ends_well_when_the_coordinator_is_drained() -> None:
    async with serving(ToyVerifier()) as (verifier,), open_coordinator(SETTINGS, RoutingTable()) as coordinator:
        coordinator.router.route(RoutingTable(verifiers=(verifier.address,)))
        await coordinator.start_serving(lambda what: None)
        channel = grpc.aio.insecure_channel(coordinator.address)
        call = GenerationServiceStub(channel).Generate(request(max_tokens=100))
        first = await anext(aiter(call))
    rest = [response async for response in call]
    await channel.close(None)
    assert tokens([first, *rest]) == toy_completion(PROMPT, SEED, 100)


@asynchronous
async def test_after_any_mix_of_endings_every_slot_is_free() -> None:
    verifier, drafter = ToyVerifier(toy_description(max_sessions=8)), ToyDrafter(toy_description(max_sessions=3))
    async with scene(verifier, drafter, settings=SETTINGS.model_copy(update={"max_waiting": 50})) as here:

        async def client(number: int) -> None:
            max_tokens = 10 + 7 * number % 50
            call = here.stub.Generate(request(max_tokens), timeout=0.05 if number % 5 == 1 else None)
            if number % 5 == 2:
                await asyncio.sleep(0.01 * number)
                call.cancel()
                return
            responses: list[wire.GenerateResponse] = []
            with suppress(grpc.aio.AioRpcError):
                responses.extend([response async for response in call])
            if number % 5 != 1:
                assert tokens(responses) == toy_completion(PROMPT, SEED, max_tokens)

        await asyncio.gather(*(client(number) for number in range(20)))
        assert await here.slots_free()
        assert await here.every_place_is_free()


# ------------------------------------------------------------------------------------- several drafters for one session


@asynchronous
async def test_two_drafters_work_for_one_request_and_the_tokens_are_the_targets() -> None:
    one, other = ToyDrafter(), ToyDrafter()
    async with scene(ToyVerifier(), one, other) as here:
        answer = await generated(here.stub, request(drafters_per_session=2, speculation=types_pb2.SPECULATION_HEDGED))
        assert tokens(answer) == toy_completion(PROMPT, SEED, 60)
        assert [each.openings[0].share.of for each in (one, other)] == [2, 2]
        assert {each.openings[0].share.index for each in (one, other)} == {0, 1}
        assert one.blocks
        assert other.blocks
        assert await here.slots_free()


@asynchronous
async def test_a_drafter_of_two_may_be_lost_in_the_middle() -> None:
    one, other = ToyDrafter(break_after=3), ToyDrafter()
    async with scene(ToyVerifier(), one, other) as here:
        wanted = request(drafters_per_session=2, speculation=types_pb2.SPECULATION_PIPELINED)
        answer = await generated(here.stub, wanted)
        assert tokens(answer) == toy_completion(PROMPT, SEED, 60)
        assert answer[-1].completion.usage.accepted_tokens > 0
        assert await here.slots_free()


@asynchronous
async def test_a_number_of_drafters_out_of_range_is_refused() -> None:
    async with scene(ToyVerifier(), ToyDrafter()) as here:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await generated(here.stub, request(drafters_per_session=9))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "must be between 1 and 8" in (refusal.value.details() or "")
        answer = await generated(here.stub, request(drafters_per_session=5))
        assert tokens(answer) == toy_completion(PROMPT, SEED, 60)
