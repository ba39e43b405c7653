"""DrafterService over real sockets, on the embedded drafter."""

import asyncio
from typing import Any

import grpc
import pytest

from sybil_engine.core.ledger import Ledger
from sybil_engine.rpc.v1 import drafter_service_pb2, types_pb2
from tests.contract.services import LIMIT_S, MAX_SESSIONS, draft, opening, plan, running_drafter

PROMPT = (5, 6, 7, 8)


def _advance(position: int, *token_ids: int, fingerprint: int | None = None) -> types_pb2.Advance:
    known = Ledger(PROMPT, len(PROMPT)).fingerprint(min(position, len(PROMPT)))
    return types_pb2.Advance(
        position=position,
        prefix_fingerprint=known if fingerprint is None else fingerprint,
        token_ids=token_ids,
        plan=plan(3),
    )


async def _refusal(stub: Any, *messages: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(draft(stub, *messages, blocks=1000), LIMIT_S)
    return caught.value


async def _assert_every_slot_is_free(stub: Any) -> None:
    done = await asyncio.gather(*(draft(stub, opening(PROMPT), blocks=1) for _ in range(MAX_SESSIONS)))
    assert all(done)


def test_blocks_extend_the_committed_tokens_and_stop_at_the_budget() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            call = stub.Draft(None)
            await call.write(_request(opening(PROMPT, plan=plan(5))))
            tokens: list[int] = []
            try:
                async with asyncio.timeout(2):
                    async for response in call:
                        for block in response.blocks:
                            assert block.position == len(PROMPT) + len(tokens)
                            tokens += block.token_ids
            except TimeoutError:
                pass
            assert len(tokens) == 5

    asyncio.run(run())


def test_after_a_commit_that_disagrees_drafting_goes_on_from_it() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            blocks = await draft(stub, opening(PROMPT, plan=plan(0)), _advance(4, 9), blocks=1)
            assert blocks[0].position == 5
            assert blocks[0].prefix_fingerprint == Ledger((*PROMPT, 9), 4).fingerprint(5)

    asyncio.run(run())


def test_a_gap_or_a_contradiction_is_a_failed_precondition_and_frees_the_slot() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            for bad in (_advance(6, 9), _advance(4, 9, fingerprint=1), _advance(2, 99, 99)):
                error = await _refusal(stub, opening(PROMPT, tokens=500), bad)
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error.details()
                assert "reopen" in (error.details() or "")
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_a_commit_beyond_the_sessions_end_is_out_of_range_and_frees_the_slot() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            error = await _refusal(stub, opening(PROMPT, tokens=2), _advance(4, 9, 9, 9))
            assert error.code() is grpc.StatusCode.OUT_OF_RANGE
            assert "the session at 6" in (error.details() or "")
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_a_repeated_commit_changes_nothing() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            once = await draft(stub, opening(PROMPT, plan=plan(0)), _advance(4, 9), blocks=1)
            twice = await draft(stub, opening(PROMPT, plan=plan(0)), _advance(4, 9), _advance(4, 9), blocks=1)
            assert once[0].token_ids[0] == twice[0].token_ids[0]

    asyncio.run(run())


def test_an_advance_says_how_far_to_draft_from_now_on() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            call = stub.Draft(None)
            await call.write(_request(opening(PROMPT, plan=plan(0))))
            await call.write(drafter_service_pb2.DraftRequest(advance=_advance(4, 9)))
            tokens = 0
            try:
                async with asyncio.timeout(2):
                    async for response in call:
                        tokens += sum(len(block.token_ids) for block in response.blocks)
            except TimeoutError:
                pass
            assert tokens == 3

    asyncio.run(run())


def test_a_stream_begins_with_an_opening_and_has_only_one() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            for messages in (
                (_advance(4, 9),),
                (drafter_service_pb2.DraftRequest(),),
                (opening(PROMPT), opening(PROMPT)),
                (opening(PROMPT), drafter_service_pb2.DraftRequest()),
            ):
                error = await _refusal(stub, *messages)
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def test_bad_openings_are_refused_and_leave_every_slot_free() -> None:
    async def run() -> None:
        async with running_drafter() as stub:
            for fields, code in (
                ({"token_ids": []}, grpc.StatusCode.INVALID_ARGUMENT),
                ({"token_ids": [1, 99_999], "prompt_tokens": 2}, grpc.StatusCode.INVALID_ARGUMENT),
                ({"token_ids": [1] * 5000}, grpc.StatusCode.OUT_OF_RANGE),
                ({"plan": types_pb2.DraftPlan(least_chance=1.5)}, grpc.StatusCode.INVALID_ARGUMENT),
                ({"plan": plan(4, 99)}, grpc.StatusCode.INVALID_ARGUMENT),  # type: ignore[arg-type]
            ):
                error = await _refusal(stub, opening(PROMPT, **fields))
                assert error.code() is code, error.details()
            await _assert_every_slot_is_free(stub)

    asyncio.run(run())


def _request(message: types_pb2.SessionOpen) -> drafter_service_pb2.DraftRequest:
    return drafter_service_pb2.DraftRequest(open=message)
