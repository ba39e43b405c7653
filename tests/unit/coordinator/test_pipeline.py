"""The pump with a ledger, at its seam: whatever breaks, the tokens are the target's."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Any

import pytest
from coordinator.policies import Lockstep, Off, Pipelined, Policy
from hypothesis import given
from hypothesis import strategies as st

from coordinator.patience import Patience
from coordinator.pipeline import OpenDrafter, OpenVerifier, Pipeline, Progress
from coordinator.usage import Meter, Usage
from sybil_engine.core.errors import (
    ContextExceeded,
    Exhausted,
    InvalidRequest,
    SessionError,
    SessionLost,
    SybilError,
    Unavailable,
)
from sybil_engine.core.session import SessionOpen
from tests.unit.coordinator.toy import FakeDrafter, FakeVerifier, asynchronous, nobody, toy_completion

PROMPT = (5, 6, 7)
TOKENS = 40
OPENING = SessionOpen(token_ids=PROMPT, prompt_tokens=3, seed=11, max_position=len(PROMPT) + TOKENS)
EXPECTED = toy_completion(PROMPT, 11, TOKENS)
HASTY = Patience(reopen_s=0.2, attempts=3, first_pause_s=0.001, most_pause_s=0.01)

policies = pytest.mark.parametrize("policy", [Off(), Lockstep(4), Pipelined()], ids=lambda each: each.speculation.value)


def pipeline(policy: Policy, verifier: OpenVerifier, drafter: OpenDrafter, meter: Meter | None = None) -> Pipeline:
    return Pipeline(OPENING, policy, verifier, drafter, meter or Meter(), HASTY)


async def tokens_of(running: Pipeline) -> tuple[int, ...]:
    async with aclosing(running.run()) as session:
        return tuple([token_id async for progress in session for token_id in progress.token_ids])


async def usage_of(policy: Policy, verifier: OpenVerifier, drafter: OpenDrafter) -> Usage:
    meter = Meter()
    assert await tokens_of(pipeline(policy, verifier, drafter, meter)) == EXPECTED
    return meter.usage()


def one_after_the_other(*services: FakeVerifier | FakeDrafter) -> Any:
    """Opens the first one, then the second one, and so on; the last one for ever."""
    turn = 0

    def session() -> AbstractContextManager[Any]:
        nonlocal turn
        service = services[min(turn, len(services) - 1)]
        turn += 1
        return service.session()

    return session


@policies
@asynchronous
async def test_the_tokens_are_the_targets_under_every_policy(policy: Policy) -> None:
    assert await tokens_of(pipeline(policy, FakeVerifier().session, FakeDrafter().session)) == EXPECTED


@asynchronous
async def test_off_opens_no_drafter_and_says_so() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    await tokens_of(pipeline(Off(), verifier.session, drafter.session))
    assert not drafter.openings
    assert verifier.openings == [Off().opening(OPENING)]


@asynchronous
async def test_lockstep_tells_both_services_its_window() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    await tokens_of(pipeline(Lockstep(4), verifier.session, drafter.session))
    for opening in (*verifier.openings, *drafter.openings):
        assert (opening.window_tokens, opening.draft_budget) == (4, 4)


@asynchronous
async def test_blocks_and_commits_are_passed_on_in_order_and_nothing_is_lost() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    await tokens_of(pipeline(Pipelined(), verifier.session, drafter.session))
    assert verifier.blocks == drafter.blocks[: len(verifier.blocks)]
    assert len(verifier.blocks) > 10
    positions = [commit.position for commit in drafter.commits]
    assert positions == sorted(positions)
    assert drafter.commits[0].position == len(PROMPT)


@policies
@asynchronous
async def test_a_repeated_commit_changes_nothing(policy: Policy) -> None:
    verifier = FakeVerifier(repeats=3)
    assert await tokens_of(pipeline(policy, verifier.session, FakeDrafter().session)) == EXPECTED


@asynchronous
async def test_a_commit_with_a_gap_reopens_the_session_with_the_ledger() -> None:
    gappy, whole = FakeVerifier(skips=3), FakeVerifier()
    usage = await usage_of(Off(), one_after_the_other(gappy, whole), nobody)
    assert usage.reopened_streams == 1
    assert whole.openings[0].token_ids == PROMPT + EXPECTED[:3]


@given(after=st.integers(0, 12), policy=st.sampled_from([Off(), Lockstep(4), Pipelined()]))
def test_a_lost_verifier_costs_no_token(after: int, policy: Policy) -> None:
    @asynchronous
    async def scenario() -> None:
        lost = FakeVerifier(breaks_after=after, breaks_with=SessionLost("killed"))
        other = FakeVerifier()
        usage = await usage_of(policy, one_after_the_other(lost, other), FakeDrafter().session)
        if lost.openings != other.openings:
            assert usage.reopened_streams <= 1
        for opening in other.openings:
            assert opening.token_ids == PROMPT + EXPECTED[: len(opening.token_ids) - len(PROMPT)]
            assert opening.prompt_tokens == len(PROMPT)

    scenario()


@asynchronous
async def test_a_verifier_that_takes_over_gets_the_blocks_that_nobody_has_judged() -> None:
    lost, other = FakeVerifier(breaks_after=1, breaks_with=SessionLost("killed")), FakeVerifier()
    drafter = FakeDrafter()
    await tokens_of(pipeline(Pipelined(), one_after_the_other(lost, other), drafter.session))
    committed = len(other.openings[0].token_ids)
    assert other.blocks[0].position <= committed <= other.blocks[0].position + 1
    assert len(drafter.openings) == 1


@pytest.mark.parametrize("error", [SessionLost("killed"), SessionError("a gap"), Unavailable("loading")])
@asynchronous
async def test_a_lost_drafter_is_replaced_and_the_new_one_gets_the_ledger(error: SybilError) -> None:
    lost, other = FakeDrafter(breaks_after=2, breaks_with=error), FakeDrafter()
    await usage_of(Pipelined(), FakeVerifier().session, one_after_the_other(lost, other))
    (opening,) = other.openings
    assert opening.token_ids == PROMPT + EXPECTED[: len(opening.token_ids) - len(PROMPT)]
    assert all(commit.position >= len(opening.token_ids) for commit in other.commits)
    assert other.blocks


@pytest.mark.parametrize(
    "drafter",
    [
        nobody,
        FakeDrafter(stuck=True).session,
        FakeDrafter(breaks_with=SessionLost("killed")).session,
        FakeDrafter(breaks_with=ContextExceeded("too long")).session,
        FakeDrafter(breaks_with=Exhausted("no slot")).session,
    ],
    ids=["nobody", "stuck", "breaking", "refusing", "exhausted"],
)
@asynchronous
async def test_a_drafter_that_is_no_use_never_delays_the_verifier(drafter: OpenDrafter) -> None:
    async with asyncio.timeout(5):
        usage = await usage_of(Pipelined(), FakeVerifier().session, drafter)
    assert usage.verify_passes == TOKENS


@asynchronous
async def test_a_drafter_that_keeps_breaking_is_given_up() -> None:
    drafter = FakeDrafter(breaks_with=SessionLost("killed"))
    await tokens_of(pipeline(Pipelined(), FakeVerifier().session, drafter.session))
    assert len(drafter.openings) <= HASTY.attempts


@pytest.mark.parametrize("error", [InvalidRequest("bad"), ContextExceeded("long")])
@asynchronous
async def test_what_is_the_requests_fault_goes_to_the_client(error: SybilError) -> None:
    verifier = FakeVerifier(breaks_after=0, breaks_with=error)
    with pytest.raises(type(error)):
        await tokens_of(pipeline(Pipelined(), verifier.session, FakeDrafter().session))
    assert len(verifier.openings) == 1


@asynchronous
async def test_waiting_for_a_verifier_ends_after_the_patience() -> None:
    with pytest.raises(Unavailable, match="nobody is there"):
        await tokens_of(pipeline(Off(), nobody, nobody))


@asynchronous
async def test_verifiers_that_keep_breaking_are_given_up() -> None:
    verifier = FakeVerifier(breaks_after=0, breaks_with=SessionLost("killed"))
    with pytest.raises(Unavailable, match="3 streams broke"):
        await tokens_of(pipeline(Off(), verifier.session, nobody))


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

    assert await tokens_of(pipeline(Off(), away_at_first, nobody)) == EXPECTED


@policies
@asynchronous
async def test_closing_ends_both_streams_at_once(policy: Policy) -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    session = pipeline(policy, verifier.session, drafter.session).run()
    first: Progress = await anext(session)
    assert first.token_ids == EXPECTED[: len(first.token_ids)]
    await session.aclose()
    assert verifier.open_streams == drafter.open_streams == 0


@asynchronous
async def test_cancelling_ends_both_streams_at_once() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    running = asyncio.create_task(tokens_of(pipeline(Pipelined(), verifier.session, drafter.session)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert drafter.commits
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert verifier.open_streams == drafter.open_streams == 0


@asynchronous
async def test_counts_add_up() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    usage = await usage_of(Pipelined(), verifier.session, drafter.session)
    assert usage.verify_passes + usage.accepted_tokens == TOKENS or (
        # The last pass may end on an accepted token.
        usage.verify_passes + usage.accepted_tokens == TOKENS + 1
    )
    assert usage.accepted_tokens <= usage.tested_tokens <= usage.accepted_tokens + usage.verify_passes
    assert usage.tested_tokens <= usage.drafted_tokens
    assert usage.drafted_tokens == len(drafter.blocks)
