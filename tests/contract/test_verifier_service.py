"""VerifierService over real sockets, on the embedded target."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import verifier_service.__main__
from sybil_engine.rpc.v1 import types_pb2, verifier_service_pb2
from sybil_engine.rpc.v1.verifier_service_pb2_grpc import VerifierServiceStub
from tests.contract.services import LIMIT_S, MAX_SESSIONS, opening, plan, running, running_verifier, verify

BAD_OPENINGS: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
    ({"token_ids": []}, grpc.StatusCode.INVALID_ARGUMENT, "prompt is empty"),
    ({"prompt_tokens": 0}, grpc.StatusCode.INVALID_ARGUMENT, "prompt_tokens is 0"),
    ({"prompt_tokens": 9}, grpc.StatusCode.INVALID_ARGUMENT, "prompt_tokens is 9"),
    (
        {"token_ids": [1, 2, 3, 99_999]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "token_ids[3] is 99999; token ids must be",
    ),
    ({"sampling": types_pb2.SamplingParams(temperature=-1)}, grpc.StatusCode.INVALID_ARGUMENT, "temperature is -1"),
    (
        {"sampling": types_pb2.SamplingParams(temperature=math.nan)},
        grpc.StatusCode.INVALID_ARGUMENT,
        "temperature is nan",
    ),
    ({"sampling": types_pb2.SamplingParams(top_p=0)}, grpc.StatusCode.INVALID_ARGUMENT, "top_p is 0"),
    ({"sampling": types_pb2.SamplingParams(top_p=1.5)}, grpc.StatusCode.INVALID_ARGUMENT, "top_p is 1.5"),
    ({"sampling": types_pb2.SamplingParams(min_p=1)}, grpc.StatusCode.INVALID_ARGUMENT, "min_p is 1"),
    ({"sampling": types_pb2.SamplingParams(top_k=-1)}, grpc.StatusCode.INVALID_ARGUMENT, "top_k is -1"),
    ({"plan": plan(4, 99)}, grpc.StatusCode.INVALID_ARGUMENT, "speculation has the value 99"),  # type: ignore[arg-type]
    ({"plan": types_pb2.DraftPlan(least_chance=math.nan)}, grpc.StatusCode.INVALID_ARGUMENT, "least_chance is nan"),
    ({"max_position": 3}, grpc.StatusCode.OUT_OF_RANGE, "no room"),
    ({"token_ids": [1] * 5000, "prompt_tokens": 5000}, grpc.StatusCode.OUT_OF_RANGE, "shorten the prompt"),
]


async def _refusal(stub: Any, *messages: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(verify(stub, *messages), LIMIT_S)
    return caught.value


async def _assert_every_slot_is_free(stub: Any) -> None:
    """As many sessions as there are slots run at the same time."""
    done = await asyncio.gather(*(verify(stub, opening()) for _ in range(MAX_SESSIONS)))
    assert [len(token_ids) for token_ids in done] == [12] * MAX_SESSIONS


def test_bad_openings_get_a_clear_status_and_leave_every_slot_free() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            for fields, code, words in BAD_OPENINGS:
                error = await _refusal(stub, opening(**fields))
                assert (error.code(), words in (error.details() or "")) == (code, True), (fields, error.details())
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_a_stream_begins_with_an_opening_and_has_only_one() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            block = types_pb2.Block(position=4, token_ids=[1], origin=types_pb2.BLOCK_ORIGIN_TRUNK)
            for messages in ((block,), (verifier_service_pb2.VerifyRequest(),), (opening(tokens=900), opening())):
                error = await _refusal(stub, *messages)
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_a_block_that_extends_an_unknown_prefix_is_dropped_and_a_malformed_one_ends_the_session() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            plain = await verify(stub, opening())
            stray = types_pb2.Block(
                position=6, prefix_fingerprint=1, token_ids=[1, 2], origin=types_pb2.BLOCK_ORIGIN_TRUNK
            )
            assert await verify(stub, opening(), stray) == plain
            empty = types_pb2.Block(position=4, origin=types_pb2.BLOCK_ORIGIN_TRUNK)
            no_origin = types_pb2.Block(position=4, token_ids=[1])
            two_for_one = types_pb2.Block(
                position=4,
                token_ids=[1],
                origin=types_pb2.BLOCK_ORIGIN_TRUNK,
                distributions=[types_pb2.Distribution()] * 2,
            )
            sure = types_pb2.Block(position=4, token_ids=[1], origin=types_pb2.BLOCK_ORIGIN_TRUNK, chances=[1.5])
            for block in (empty, no_origin, two_for_one, sure):
                error = await _refusal(stub, opening(tokens=900), block)
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_one_session_too_many_is_refused_and_a_cancelled_one_makes_room() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            running_sessions = [asyncio.create_task(verify(stub, opening(tokens=900))) for _ in range(MAX_SESSIONS)]
            await asyncio.sleep(0.3)
            error = await _refusal(stub, opening())
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            for task in running_sessions:
                task.cancel()
            await asyncio.wait(running_sessions)
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


async def _opened_and_left() -> AsyncIterator[verifier_service_pb2.VerifyRequest]:
    yield verifier_service_pb2.VerifyRequest(open=opening(tokens=900))


def test_a_stream_that_ends_half_way_frees_its_slot() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            for _ in range(2 * MAX_SESSIONS):
                call = stub.Verify(_opened_and_left())
                async for _response in call:
                    pass
                assert await call.code() is grpc.StatusCode.OK
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_an_oversized_message_is_refused_and_the_server_goes_on() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            error = await _refusal(stub, opening(session_id="x" * 5_000_000))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_a_health_check_answers_within_50_ms_during_passes() -> None:
    async def run() -> None:
        async with running(verifier_service.__main__.serve) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            busy = asyncio.create_task(verify(VerifierServiceStub(channel), opening(tokens=200)))
            await asyncio.sleep(0.1)
            delays_s = []
            while not busy.done():
                start = time.perf_counter()
                await health.Check(health_pb2.HealthCheckRequest())
                delays_s.append(time.perf_counter() - start)
                await asyncio.sleep(0.02)
            # The median: a busy machine may stall any one of them, a loop that waits for passes stalls most.
            assert len(delays_s) > 5
            assert sorted(delays_s)[len(delays_s) // 2] < 0.05

    asyncio.run(run())


def test_reflection_lists_the_service_and_health() -> None:
    async def run() -> None:
        async with running(verifier_service.__main__.serve) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            answer = await call.read()
            names = {service.name for service in answer.list_services_response.service}
            assert {"sybil_engine.rpc.v1.VerifierService", "grpc.health.v1.Health"} <= names

    asyncio.run(run())


def test_describe_says_what_is_hosted_and_the_tokenizer_can_be_fetched() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            description = await stub.Describe(types_pb2.DescribeRequest())
            assert (description.model_id, description.vocabulary_size) == ("embedded-target", 4096)
            assert (description.ready, description.max_sessions) == (True, MAX_SESSIONS)
            tokenizer = await stub.GetTokenizer(verifier_service_pb2.GetTokenizerRequest())
            assert tokenizer.tokenizer_json.startswith(b"{")

    asyncio.run(run())


def test_every_commit_says_where_its_tokens_come_from_and_what_to_draft_next() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            call = stub.Verify(None)
            await call.write(verifier_service_pb2.VerifyRequest(open=opening()))
            commits = [response.commit async for response in call if response.HasField("commit")]
            positions = [4, *(commit.position + len(commit.tokens) for commit in commits)]
            assert [commit.position for commit in commits] == positions[:-1]
            assert {token.origin for commit in commits for token in commit.tokens} == {types_pb2.TOKEN_ORIGIN_TARGET}
            assert not any(token.HasField("logprob") for commit in commits for token in commit.tokens)
            assert {commit.plan.speculation for commit in commits} == {types_pb2.SPECULATION_PIPELINED}
            assert all(commit.plan.budget for commit in commits[:-1])
            assert [commit.finish_reason for commit in commits] == [0] * (len(commits) - 1) + [
                types_pb2.FINISH_REASON_LENGTH
            ]

    asyncio.run(run())


def test_logprobs_are_sent_when_asked_for() -> None:
    async def run() -> None:
        async with running_verifier() as stub:
            call = stub.Verify(None)
            await call.write(verifier_service_pb2.VerifyRequest(open=opening(logprobs=True)))
            logprobs: list[float] = []
            async for response in call:
                assert all(token.HasField("logprob") for token in response.commit.tokens)
                logprobs += [token.logprob for token in response.commit.tokens]
            assert len(logprobs) == 12
            assert all(math.isfinite(value) and value <= 0 for value in logprobs)

    asyncio.run(run())
