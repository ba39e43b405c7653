"""The pipeline, with fake streams: whatever breaks, the tokens are the target's."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.pipeline import NewTokens, OpenDrafter, OpenVerifier, Pipeline
from coordinator.usage import Meter
from sybil_engine.core.completion import Usage
from sybil_engine.core.errors import (
    ContextExceeded,
    Exhausted,
    InvalidRequest,
    SessionError,
    SessionLost,
    SybilError,
    Unavailable,
)
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan, first_plan
from sybil_engine.core.session import DrafterShare, SessionOpen
from sybil_engine.core.types import Speculation
from tests.unit.coordinator.toy import (
    HASTY,
    FakeDrafter,
    FakeVerifier,
    asynchronous,
    nobody,
    one_after_the_other,
    the_first_free,
    toy_completion,
)

PROMPT = (5, 6, 7)
TOKENS = 40
OPENING = SessionOpen(token_ids=PROMPT, prompt_tokens=3, seed=11, max_position=len(PROMPT) + TOKENS)
EXPECTED = toy_completion(PROMPT, 11, TOKENS)
WINDOW_TOKENS = 4
OFF, LOCKSTEP, PIPELINED, AUTO = Speculation.OFF, Speculation.LOCKSTEP, Speculation.PIPELINED, Speculation.AUTO

ways = pytest.mark.parametrize("speculation", Speculation)


def opening(speculation: Speculation) -> SessionOpen:
    window_tokens = WINDOW_TOKENS if speculation is LOCKSTEP else 0
    return replace(OPENING, window_tokens=window_tokens, plan=first_plan(speculation, window_tokens))


def pipeline(
    speculation: Speculation, verifier: OpenVerifier, drafter: OpenDrafter, meter: Meter | None = None
) -> Pipeline:
    return Pipeline(opening(speculation), verifier, drafter, meter or Meter(), HASTY)


async def tokens_of(running: Pipeline) -> tuple[int, ...]:
    async with aclosing(running.run()) as session:
        return tuple([token.token_id async for new in session for token in new.tokens])


async def usage_of(speculation: Speculation, verifier: OpenVerifier, drafter: OpenDrafter) -> Usage:
    meter = Meter()
    assert await tokens_of(pipeline(speculation, verifier, drafter, meter)) == EXPECTED
    return meter.usage(len(PROMPT))


def changing(commits: int) -> DraftPlan:
    """A plan that changes with every commit."""
    return DraftPlan(PIPELINED, budget=4 + commits % 9, rows=1 + commits % 3, least_chance=0.0)


def commits_before(verifier: FakeVerifier, opened: SessionOpen) -> int:
    """How many of its commits an opening has in its ledger."""
    return sum(commit.position < len(opened.token_ids) for commit in verifier.commits)


@ways
@asynchronous
async def test_the_tokens_are_the_targets_however_it_speculates(speculation: Speculation) -> None:
    assert await tokens_of(pipeline(speculation, FakeVerifier().session, FakeDrafter().session)) == EXPECTED


@asynchronous
async def test_off_opens_no_drafter_and_says_so() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    await tokens_of(pipeline(OFF, verifier.session, drafter.session))
    assert not drafter.openings
    assert verifier.openings == [opening(OFF)]


@asynchronous
async def test_a_drafter_is_attached_when_a_plan_first_asks_for_drafts_and_not_before() -> None:
    first = first_plan(AUTO, drafts_pay=False)
    verifier = FakeVerifier(plans=lambda commits: changing(commits) if commits >= 5 else NO_DRAFTING)
    drafter, meter = FakeDrafter(), Meter()
    running = Pipeline(replace(OPENING, plan=first), verifier.session, drafter.session, meter, HASTY)
    assert await tokens_of(running) == EXPECTED
    (opened,) = drafter.openings
    assert commits_before(verifier, opened) >= 5
    assert opened.plan.budget
    assert meter.usage(len(PROMPT)).accepted_tokens > 0


@asynchronous
async def test_a_session_whose_plans_ask_for_no_drafts_never_has_a_drafter() -> None:
    verifier, drafter = FakeVerifier(plans=lambda commits: NO_DRAFTING), FakeDrafter()
    plan = first_plan(AUTO, drafts_pay=False)
    assert (
        await tokens_of(Pipeline(replace(OPENING, plan=plan), verifier.session, drafter.session, Meter(), HASTY))
        == EXPECTED
    )
    assert not drafter.openings


@asynchronous
async def test_lockstep_tells_both_services_its_window() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    await tokens_of(pipeline(LOCKSTEP, verifier.session, drafter.session))
    assert verifier.openings == drafter.openings == [opening(LOCKSTEP)]
    assert (opening(LOCKSTEP).plan.budget, opening(LOCKSTEP).plan.hold_until) == (WINDOW_TOKENS, WINDOW_TOKENS)


@asynchronous
async def test_blocks_and_commits_are_passed_on_in_order_and_nothing_is_lost() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    await tokens_of(pipeline(PIPELINED, verifier.session, drafter.session))
    assert verifier.blocks == drafter.blocks[: len(verifier.blocks)]
    assert len(verifier.blocks) > 10
    positions = [advance.position for advance in drafter.advances]
    assert positions == sorted(positions)
    assert drafter.advances[0].position == len(PROMPT)


@pytest.mark.parametrize("at_once", [1, 3])
@asynchronous
async def test_the_verifier_gets_the_very_blocks_that_the_drafter_sent(at_once: int) -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter(at_once=at_once)
    usage = await usage_of(PIPELINED, verifier.session, drafter.session)
    assert all(passed is sent for passed, sent in zip(verifier.blocks, drafter.blocks, strict=False))
    assert len(verifier.blocks) > 10
    assert usage.drafted_tokens == len(drafter.blocks)


@asynchronous
async def test_the_drafter_gets_the_plan_of_every_commit() -> None:
    verifier, drafter = FakeVerifier(plans=changing), FakeDrafter()
    await tokens_of(pipeline(PIPELINED, verifier.session, drafter.session))
    assert drafter.advances == [commit.advance for commit in verifier.commits[: len(drafter.advances)]]
    assert len({advance.plan for advance in drafter.advances}) > 5


@ways
@asynchronous
async def test_new_tokens_are_the_commits_own_with_all_that_they_say(speculation: Speculation) -> None:
    verifier = FakeVerifier(repeats=2)
    asked = replace(opening(speculation), logprobs=True)
    running = Pipeline(asked, verifier.session, FakeDrafter().session, Meter(), HASTY)
    async with aclosing(running.run()) as session:
        news = [new async for new in session]
    assert [new.tokens for new in news] == [commit.tokens for commit in verifier.commits[::2]]
    assert [new.finish_reason for new in news] == [commit.finish_reason for commit in verifier.commits[::2]]
    assert all(token.logprob == -0.5 for new in news for token in new.tokens)


@ways
@asynchronous
async def test_a_repeated_commit_changes_nothing(speculation: Speculation) -> None:
    verifier = FakeVerifier(repeats=3)
    assert await tokens_of(pipeline(speculation, verifier.session, FakeDrafter().session)) == EXPECTED


@asynchronous
async def test_a_commit_with_a_gap_reopens_the_session_with_the_ledger() -> None:
    gappy, whole = FakeVerifier(skips=3), FakeVerifier()
    usage = await usage_of(OFF, one_after_the_other(gappy, whole), nobody)
    assert usage.reopened_streams == 1
    assert whole.openings[0].token_ids == PROMPT + EXPECTED[:3]


@given(after=st.integers(0, 12), speculation=st.sampled_from(Speculation))
def test_a_lost_verifier_costs_no_token(after: int, speculation: Speculation) -> None:
    @asynchronous
    async def scenario() -> None:
        lost = FakeVerifier(breaks_after=after, breaks_with=SessionLost("killed"))
        other = FakeVerifier()
        usage = await usage_of(speculation, one_after_the_other(lost, other), FakeDrafter().session)
        if lost.openings != other.openings:
            assert usage.reopened_streams <= 1
        for reopened in other.openings:
            assert reopened.token_ids == PROMPT + EXPECTED[: len(reopened.token_ids) - len(PROMPT)]
            assert reopened.prompt_tokens == len(PROMPT)

    scenario()


@asynchronous
async def test_a_verifier_that_takes_over_gets_the_blocks_that_nobody_has_judged() -> None:
    lost, other = FakeVerifier(breaks_after=1, breaks_with=SessionLost("killed")), FakeVerifier()
    drafter = FakeDrafter()
    await tokens_of(pipeline(PIPELINED, one_after_the_other(lost, other), drafter.session))
    committed = len(other.openings[0].token_ids)
    assert other.blocks[0].position <= committed <= other.blocks[0].position + 1
    assert len(drafter.openings) == 1


@pytest.mark.parametrize("error", [SessionLost("killed"), SessionError("a gap"), Unavailable("loading")])
@asynchronous
async def test_a_lost_drafter_is_replaced_and_the_new_one_gets_the_ledger(error: SybilError) -> None:
    lost, other = FakeDrafter(breaks_after=2, breaks_with=error), FakeDrafter()
    await usage_of(PIPELINED, FakeVerifier().session, one_after_the_other(lost, other))
    (reopened,) = other.openings
    assert reopened.token_ids == PROMPT + EXPECTED[: len(reopened.token_ids) - len(PROMPT)]
    assert all(advance.position >= len(reopened.token_ids) for advance in other.advances)
    assert other.blocks


@asynchronous
async def test_a_drafter_that_is_attached_again_is_opened_with_the_latest_plan() -> None:
    verifier = FakeVerifier(plans=changing)
    lost, other = FakeDrafter(breaks_after=15, breaks_with=SessionLost("killed")), FakeDrafter()
    await usage_of(AUTO, verifier.session, one_after_the_other(lost, other))
    assert lost.openings == [opening(AUTO)]
    (reopened,) = other.openings
    latest = verifier.commits[commits_before(verifier, reopened) - 1]
    assert reopened == replace(opening(AUTO), token_ids=reopened.token_ids, plan=latest.plan)
    assert reopened.plan not in (opening(AUTO).plan, changing(0))
    assert other.advances[0].position == len(reopened.token_ids)


@asynchronous
async def test_a_drafter_that_is_attached_late_is_opened_with_the_latest_plan() -> None:
    verifier, drafter = FakeVerifier(plans=changing), FakeDrafter()

    @contextmanager
    def away_at_first(taken: Collection[str]) -> Iterator[Any]:
        if len(verifier.commits) < 3:
            raise Unavailable("loading")
        with drafter.session() as stream:
            yield stream

    await usage_of(AUTO, verifier.session, away_at_first)
    (opened,) = drafter.openings
    commits = commits_before(verifier, opened)
    assert commits >= 3
    assert opened.plan == verifier.commits[commits - 1].plan != opening(AUTO).plan
    assert drafter.advances[0].position == len(opened.token_ids)


@ways
@asynchronous
async def test_a_verifier_that_takes_over_is_opened_with_the_first_plan(speculation: Speculation) -> None:
    lost = FakeVerifier(breaks_after=3, breaks_with=SessionLost("killed"), plans=changing)
    other = FakeVerifier(plans=changing)
    await usage_of(speculation, one_after_the_other(lost, other), FakeDrafter().session)
    (reopened,) = other.openings
    assert len(reopened.token_ids) > len(PROMPT)
    assert reopened == replace(opening(speculation), token_ids=reopened.token_ids)


@asynchronous
async def test_a_drafter_that_says_something_impossible_is_given_up_and_the_tokens_are_the_same() -> None:
    drafter = FakeDrafter(breaks_after=4, breaks_with=InvalidRequest("a block without tokens; send at least one"))
    usage = await usage_of(PIPELINED, FakeVerifier().session, drafter.session)
    assert len(drafter.openings) == 1
    assert usage.drafted_tokens == 4
    assert usage.reopened_streams == 0


@pytest.mark.parametrize(
    "drafter",
    [
        nobody,
        FakeDrafter(stuck=True).session,
        FakeDrafter(breaks_with=SessionLost("killed")).session,
        FakeDrafter(breaks_with=ContextExceeded("too long")).session,
        FakeDrafter(breaks_with=InvalidRequest("a chance of 1.5")).session,
        FakeDrafter(breaks_with=Exhausted("no slot")).session,
    ],
    ids=["nobody", "stuck", "breaking", "refusing", "impossible", "exhausted"],
)
@asynchronous
async def test_a_drafter_that_is_no_use_never_delays_the_verifier(drafter: OpenDrafter) -> None:
    async with asyncio.timeout(5):
        usage = await usage_of(PIPELINED, FakeVerifier().session, drafter)
    assert usage.verify_passes == TOKENS


@asynchronous
async def test_a_drafter_that_keeps_breaking_is_given_up() -> None:
    drafter = FakeDrafter(breaks_with=SessionLost("killed"))
    await tokens_of(pipeline(PIPELINED, FakeVerifier().session, drafter.session))
    assert len(drafter.openings) <= HASTY.attempts


@pytest.mark.parametrize("error", [InvalidRequest("bad"), ContextExceeded("long")])
@asynchronous
async def test_what_is_the_requests_fault_goes_to_the_client(error: SybilError) -> None:
    verifier = FakeVerifier(breaks_after=0, breaks_with=error)
    with pytest.raises(type(error)):
        await tokens_of(pipeline(PIPELINED, verifier.session, FakeDrafter().session))
    assert len(verifier.openings) == 1


@asynchronous
async def test_waiting_for_a_verifier_ends_after_the_patience() -> None:
    with pytest.raises(Unavailable, match="nobody is there"):
        await tokens_of(pipeline(OFF, nobody, nobody))


@asynchronous
async def test_verifiers_that_keep_breaking_are_given_up() -> None:
    verifier = FakeVerifier(breaks_after=0, breaks_with=SessionLost("killed"))
    with pytest.raises(Unavailable, match=r"broke 3 times in a row .* at last with: killed"):
        await tokens_of(pipeline(OFF, verifier.session, nobody))


@asynchronous
async def test_a_verifier_that_is_back_in_time_goes_on() -> None:
    verifier = FakeVerifier()
    attempts = 0

    @contextmanager
    def away_at_first() -> Iterator[Any]:
        nonlocal attempts
        attempts += 1
        if attempts < 5:
            raise Unavailable("loading")
        with verifier.session() as stream:
            yield stream

    assert await tokens_of(pipeline(OFF, away_at_first, nobody)) == EXPECTED


@ways
@asynchronous
async def test_closing_ends_both_streams_at_once(speculation: Speculation) -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    session = pipeline(speculation, verifier.session, drafter.session).run()
    first: NewTokens = await anext(session)
    assert tuple(token.token_id for token in first.tokens) == EXPECTED[: len(first.tokens)]
    await session.aclose()
    assert verifier.open_streams == drafter.open_streams == 0


@asynchronous
async def test_cancelling_ends_both_streams_at_once() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    running = asyncio.create_task(tokens_of(pipeline(PIPELINED, verifier.session, drafter.session)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert drafter.advances
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert verifier.open_streams == drafter.open_streams == 0


@asynchronous
async def test_counts_add_up() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    usage = await usage_of(PIPELINED, verifier.session, drafter.session)
    assert usage.verify_passes + usage.accepted_tokens == TOKENS or (
        # The last pass may end on an accepted token.
        usage.verify_passes + usage.accepted_tokens == TOKENS + 1
    )
    assert usage.accepted_tokens <= usage.tested_tokens <= usage.accepted_tokens + usage.verify_passes
    assert usage.tested_tokens <= usage.drafted_tokens
    assert usage.drafted_tokens == len(drafter.blocks)


# ------------------------------------------------------------------------------------- several drafters for one session


def with_drafters(verifier: FakeVerifier, meter: Meter, *drafters: FakeDrafter, wanted: int = 2) -> Pipeline:
    return Pipeline(opening(PIPELINED), verifier.session, the_first_free(*drafters), meter, HASTY, wanted)


@asynchronous
async def test_several_drafters_get_shares_of_the_work_and_every_commit() -> None:
    verifier, one, other = FakeVerifier(), FakeDrafter(address="one"), FakeDrafter(address="other")
    meter = Meter()
    assert await tokens_of(with_drafters(verifier, meter, one, other)) == EXPECTED
    assert [each.openings[0].share for each in (one, other)] == [DrafterShare(0, 2), DrafterShare(1, 2)]
    assert len(one.openings) == len(other.openings) == 1
    for drafter in (one, other):
        known = len(drafter.openings[0].token_ids) + sum(len(each.token_ids) for each in drafter.advances)
        assert known >= len(PROMPT) + TOKENS - 2 * WINDOW_TOKENS
        assert set(drafter.blocks) & set(verifier.blocks)
    assert meter.usage(len(PROMPT)).accepted_tokens > 0
    assert not one.open_streams + other.open_streams


@pytest.mark.parametrize("first_is_lost", [True, False])
@asynchronous
async def test_one_of_several_drafters_may_break_and_come_back(first_is_lost: bool) -> None:
    lost = FakeDrafter(address="lost", breaks_after=2, breaks_with=SessionLost("gone"))
    kept = FakeDrafter(address="kept")
    drafters = (lost, kept) if first_is_lost else (kept, lost)
    assert await tokens_of(with_drafters(FakeVerifier(), Meter(), *drafters)) == EXPECTED
    assert len(kept.openings) == 1
    assert {each.share.of for each in (*lost.openings, *kept.openings)} == {2}


@asynchronous
async def test_one_of_several_drafters_may_be_stuck() -> None:
    stuck, works = FakeDrafter(address="stuck", stuck=True), FakeDrafter(address="works")
    meter = Meter()
    assert await tokens_of(with_drafters(FakeVerifier(), meter, stuck, works)) == EXPECTED
    assert meter.usage(len(PROMPT)).accepted_tokens > 0


@asynchronous
async def test_where_there_are_fewer_drafters_than_wanted_those_work() -> None:
    only = FakeDrafter(address="only")
    assert await tokens_of(with_drafters(FakeVerifier(), Meter(), only, wanted=3)) == EXPECTED
    assert len(only.openings) == 1
