"""The generation core at its seam, without a port: a request in, deltas out."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from coordinator.pipeline import OpenDrafter
from coordinator.tokenizer import Tokenizer
from sybil_engine.core.completion import Delta, Ending
from sybil_engine.core.errors import (
    ContextExceeded,
    Exhausted,
    InvalidRequest,
    PairMismatch,
    SessionLost,
    SybilError,
    Unavailable,
)
from sybil_engine.core.plan import NO_DRAFTING, first_plan
from sybil_engine.core.types import FinishReason, Speculation, TokenOrigin
from tests.unit.coordinator.toy import (
    FakeDrafter,
    FakeVerifier,
    Scene,
    ahead,
    asynchronous,
    nobody,
    one_after_the_other,
    toy_completion,
)

PROMPT, SEED, TOKENS = Scene.PROMPT, Scene.SEED, Scene.TOKENS
EXPECTED = toy_completion(PROMPT, SEED, TOKENS)

ways = pytest.mark.parametrize("speculation", Speculation)


def ids(deltas: Sequence[Delta]) -> tuple[int, ...]:
    return tuple(token_id for delta in deltas for token_id in delta.token_ids)


def text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def ending(deltas: Sequence[Delta]) -> Ending:
    """The last delta's ending; no other delta has one."""
    assert not any(delta.ending for delta in deltas[:-1])
    found = deltas[-1].ending
    assert found
    return found


async def eventually(holds: Callable[[], bool]) -> bool:
    for _ in range(5_000):
        if holds():
            return True
        await asyncio.sleep(0)
    return False


def is_under_way(here: Scene) -> bool:
    return len(here.verifier.commits) > 1


# ----------------------------------------------------------------------------------------------------------- what comes


@ways
@asynchronous
async def test_the_tokens_are_the_targets_and_the_text_is_what_they_say(speculation: Speculation) -> None:
    here = Scene()
    deltas = await here.deltas(speculation=speculation, logprobs=True)
    assert ids(deltas) == EXPECTED
    assert text(deltas) == b"".join(map(here.services.target.tokenizer.bytes_of, EXPECTED)).decode()
    assert all(token.logprob == -0.5 for delta in deltas for token in delta.tokens)
    assert here.idle


@ways
@asynchronous
async def test_the_ending_says_what_the_completion_took(speculation: Speculation) -> None:
    here = Scene()
    deltas = await here.deltas(speculation=speculation)
    end = ending(deltas)
    drafted = sum(len(delta.tokens) for delta in deltas if delta.origin is TokenOrigin.DRAFTED)
    assert (end.finish_reason, end.seed, end.speculation) == (FinishReason.LENGTH, SEED, speculation)
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (len(PROMPT), TOKENS)
    assert end.usage.verify_passes == sum(end.passes.values()) == len(here.verifier.commits)
    assert end.usage.accepted_tokens == drafted
    assert (drafted > 0) == (speculation is not Speculation.OFF)
    assert end.usage.drafted_tokens == len(here.drafter.blocks)


@ways
@asynchronous
async def test_every_delta_has_one_origin_and_text_is_split_by_origin_once(speculation: Speculation) -> None:
    here = Scene()
    deltas = await here.deltas(speculation=speculation)
    assert all(len({token.origin for token in delta.tokens}) == 1 for delta in deltas)
    # As the commits have it: neither cut further, nor joined, and no origin twice within a commit.
    runs = [
        origin for commit in here.verifier.commits for origin in dict.fromkeys(each.origin for each in commit.tokens)
    ]
    assert [delta.origin for delta in deltas] == runs


@pytest.mark.parametrize("drafts", [False, True])
@asynchronous
async def test_beside_others_an_adaptive_session_opens_without_drafts_if_most_of_them_have_none(drafts: bool) -> None:
    for speculation in Speculation:
        here = Scene(FakeVerifier(plans=ahead if drafts else lambda commits: NO_DRAFTING), slots=2)
        other = asyncio.create_task(here.deltas(speculation=speculation))
        assert await eventually(partial(is_under_way, here))
        await here.deltas(speculation=speculation)
        await other
        await here.deltas(speculation=speculation)
        beside, alone = (opening.plan for opening in here.verifier.openings[1:])
        assert beside == first_plan(speculation, drafts_pay=drafts)
        assert alone == first_plan(speculation)


@asynchronous
async def test_a_session_opens_as_the_request_and_the_services_say() -> None:
    for speculation in Speculation:
        for shares in (False, True):
            here = Scene()
            here.services.shares_processors = shares
            await here.deltas(speculation=speculation, window_tokens=3)
            (opening,) = here.verifier.openings
            assert opening.plan == first_plan(speculation, 3, shares_processor=shares)
            assert opening.shares_processor == shares
            assert here.services.asked_for == [here.services.target]
            assert here.drafter.openings == ([] if speculation is Speculation.OFF else [opening])


@asynchronous
async def test_a_stop_string_ends_the_session_and_is_never_sent() -> None:
    here = Scene()
    whole = text(await here.deltas())
    stop = whole[20:24]
    deltas = await here.deltas(stop=[stop])
    assert text(deltas) == whole[: whole.index(stop)]
    assert ids(deltas) == EXPECTED[: whole.index(stop) + len(stop)]
    assert ending(deltas).finish_reason is FinishReason.STOP
    assert ending(deltas).usage.completion_tokens == len(ids(deltas))
    assert here.idle


@asynchronous
async def test_a_stop_token_ends_the_completion_and_is_its_last_token() -> None:
    deltas = await Scene().deltas(stop_token_ids=[EXPECTED[10]])
    assert ids(deltas) == EXPECTED[: EXPECTED.index(EXPECTED[10]) + 1]
    assert ending(deltas).finish_reason is FinishReason.STOP


@asynchronous
async def test_tokens_that_a_client_has_are_not_sent_again() -> None:
    here = Scene()
    whole = text(await here.deltas())
    deltas = await here.deltas(resume_token_ids=EXPECTED[:25])
    assert (ids(deltas), text(deltas)) == (EXPECTED[25:], whole[25:])
    assert ending(deltas).usage.completion_tokens == TOKENS - 25


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, FinishReason.LENGTH),
        ({"stop_token_ids": [EXPECTED[-1]], "ignore_end_tokens": True}, FinishReason.STOP),
    ],
)
@asynchronous
async def test_a_completion_that_the_client_has_whole_opens_no_session(
    asked: dict[str, Any], reason: FinishReason
) -> None:
    here = Scene()
    (delta,) = await here.deltas(resume_token_ids=EXPECTED, **asked)
    assert (delta.text, delta.tokens, ending([delta]).finish_reason) == ("", (), reason)
    assert not here.verifier.openings


# ---------------------------------------------------------------------------------------------------- how long it lives


@ways
@asynchronous
async def test_closing_the_generator_frees_everything(speculation: Speculation) -> None:
    here = Scene()
    stream = here.stream(speculation=speculation, max_tokens=900)
    await anext(stream)
    assert here.verifier.open_streams == here.admission.running == 1
    await stream.aclose()
    assert here.idle


@pytest.mark.parametrize("rounds", [*range(12), 50])
@asynchronous
async def test_a_reader_that_is_cancelled_frees_everything(rounds: int) -> None:
    here = Scene()
    reading = asyncio.create_task(here.deltas(max_tokens=900))
    for _ in range(rounds):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert here.idle


@asynchronous
async def test_a_generator_that_is_never_started_holds_nothing() -> None:
    here = Scene()
    stream = here.stream()
    await asyncio.sleep(0)
    assert here.idle
    await stream.aclose()
    assert not here.verifier.openings


@asynchronous
async def test_a_reader_that_leaves_the_queue_makes_room() -> None:
    here = Scene(max_waiting=1)
    first = here.stream(max_tokens=900)
    await anext(first)
    waiting = asyncio.create_task(here.deltas())
    assert await eventually(lambda: here.admission.waiting == 1)
    with pytest.raises(Exhausted, match="1 requests are running and 1 are waiting"):
        await here.deltas()
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert here.admission.waiting == 0
    await first.aclose()
    assert here.idle
    assert ids(await here.deltas()) == EXPECTED


@ways
@asynchronous
async def test_a_slow_reader_does_not_hold_up_the_session(speculation: Speculation) -> None:
    here = Scene()
    stream = here.stream(speculation=speculation)
    deltas = [await anext(stream)]
    # The session ends, and its place is free, while the rest of it waits for the reader.
    assert await eventually(lambda: here.idle)
    assert ids(await here.deltas()) == EXPECTED
    deltas += [delta async for delta in stream]
    assert ids(deltas) == EXPECTED
    assert ending(deltas).usage.completion_tokens == TOKENS


@asynchronous
async def test_a_slow_reader_gets_the_deltas_of_a_fast_one() -> None:
    fast = await Scene().deltas()
    here = Scene()
    stream = here.stream()
    slow = []
    async for delta in stream:
        slow.append(delta)
        for _ in range(50):
            await asyncio.sleep(0)
    assert [(each.text, each.tokens) for each in slow] == [(each.text, each.tokens) for each in fast]


# ---------------------------------------------------------------------------------------------------------- what breaks


@pytest.mark.parametrize("error", [InvalidRequest("bad"), ContextExceeded("long"), PairMismatch("another target")])
@asynchronous
async def test_an_error_comes_after_the_tokens_before_it_and_frees_everything(error: SybilError) -> None:
    here = Scene(FakeVerifier(breaks_after=3, breaks_with=error))
    deltas = []
    with pytest.raises(type(error), match=str(error)):
        async for delta in here.stream(speculation=Speculation.OFF):
            deltas.append(delta)  # noqa: PERF401 - an error ends it
    assert ids(deltas[:3]) == EXPECTED[:3]
    assert here.idle


@asynchronous
async def test_a_request_that_nobody_serves_fails_after_the_patience() -> None:
    here = Scene()
    here.services.open_verifier = nobody
    with pytest.raises(Unavailable, match="nobody is there"):
        await here.deltas()
    assert here.idle


@asynchronous
async def test_a_request_that_is_refused_opens_nothing() -> None:
    here = Scene()
    with pytest.raises(InvalidRequest, match="max_tokens is 0"):
        await here.deltas(max_tokens=0)
    assert not here.verifier.openings
    assert here.idle


@asynchronous
async def test_a_lost_verifier_costs_no_token_and_is_counted() -> None:
    here = Scene()
    lost = FakeVerifier(breaks_after=4, breaks_with=SessionLost("killed"))
    here.services.open_verifier = one_after_the_other(lost, here.verifier)
    deltas = await here.deltas()
    assert ids(deltas) == EXPECTED
    assert ending(deltas).usage.reopened_streams == 1


@pytest.mark.parametrize(
    "drafter",
    [
        nobody,
        FakeDrafter(stuck=True).session,
        FakeDrafter(breaks_after=3, breaks_with=SessionLost("killed")).session,
        FakeDrafter(breaks_after=3, breaks_with=InvalidRequest("a block without tokens")).session,
    ],
    ids=["nobody", "stuck", "breaking", "impossible"],
)
@asynchronous
async def test_a_drafter_that_is_no_use_costs_the_client_nothing(drafter: OpenDrafter) -> None:
    here = Scene()
    here.services.open_drafter = drafter
    assert ids(await here.deltas()) == EXPECTED
    assert here.idle


@asynchronous
async def test_an_unexpected_error_reaches_the_reader_and_frees_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    here = Scene()

    @contextmanager
    def broken() -> Iterator[Any]:
        raise ZeroDivisionError("a bug")
        yield

    here.services.open_verifier = broken
    with pytest.raises(ZeroDivisionError):
        await here.deltas()
    assert here.idle


@asynchronous
async def test_tokens_that_cannot_become_text_reach_the_reader_as_an_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(tokenizer: Tokenizer, prompt: Sequence[int]) -> Any:
        raise ZeroDivisionError("a tokenizer of a strange kind")

    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(Tokenizer, "detokenizer", broken)
    here = Scene()
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await here.deltas()
    assert here.idle
