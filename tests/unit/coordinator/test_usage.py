import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.usage import Interval, Meter, length_ns, overlap_ns
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import Commit, count_tested
from sybil_engine.core.types import Block, CommittedToken, PassTimings, Speculation

intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1])))


def instants(covered: list[Interval]) -> set[int]:
    return {instant for start, end in covered for instant in range(start, end)}


@given(intervals)
def test_the_length_of_intervals_counts_each_instant_once(covered: list[Interval]) -> None:
    assert length_ns(covered) == len(instants(covered))


@given(intervals, intervals)
def test_the_overlap_counts_each_instant_that_both_cover_once(left: list[Interval], right: list[Interval]) -> None:
    assert overlap_ns(left, right) == len(instants(left) & instants(right))


@given(intervals, intervals)
def test_the_overlap_is_the_same_from_either_side(left: list[Interval], right: list[Interval]) -> None:
    assert overlap_ns(left, right) == overlap_ns(right, left)


@given(st.integers(0, 20), st.data())
def test_the_first_rejection_is_tested_and_what_follows_it_is_not(judged: int, data: st.DataObject) -> None:
    accepted = data.draw(st.integers(0, judged))
    assert count_tested(judged, accepted) == accepted + (1 if accepted < judged else 0)


@pytest.mark.parametrize(("gaps_ns", "middle_ns"), [([], 0), ([3], 3), ([9, 1], 1), ([9, 1, 5], 5)])
def test_the_median_is_a_value_that_was_measured(gaps_ns: list[int], middle_ns: int) -> None:
    meter = Meter()
    for gap_ns in gaps_ns:
        meter.committed(Commit(1, 0, (CommittedToken(5),), timings=PassTimings(gap_ns=gap_ns)), arrived_ns=1000)
    assert meter.usage(prompt_tokens=1).gap_p50_ns == middle_ns


@pytest.mark.parametrize(("arrivals_ns", "middle_ns"), [([], 0), ([7], 0), ([7, 7, 10, 10, 15, 40], 5)])
def test_blocks_that_arrive_together_are_one_push(arrivals_ns: list[int], middle_ns: int) -> None:
    meter = Meter()
    for arrived_ns in arrivals_ns:
        meter.drafted(Block(1, 0, (5,), draft_ns=1), arrived_ns)
    assert meter.usage(prompt_tokens=1).push_p50_ns == middle_ns


def test_passes_whose_commits_arrive_together_last_as_long_as_they_lasted() -> None:
    meter = Meter()
    for position in (1, 2):
        timings = PassTimings(wait_ns=0, gap_ns=0, forward_ns=30, sampling_ns=1)
        commit = Commit(position, 0, (CommittedToken(5),), timings=timings)
        meter.committed(commit, arrived_ns=1000 + position)
    assert meter.usage(prompt_tokens=1).verify_ns == 62


def commit_with(plan: DraftPlan, judged: int = 0, accepted: int = 0) -> Commit:
    return Commit(1, 0, (CommittedToken(5),), judged, accepted, plan)


def test_a_pass_counts_as_what_was_in_effect_while_it_ran() -> None:
    meter = Meter()
    lockstep, ahead, plain = (
        DraftPlan(each) for each in (Speculation.LOCKSTEP, Speculation.PIPELINED, Speculation.OFF)
    )
    # Each commit says what is in effect after it; nothing was decided before the first one.
    for plan in (lockstep, ahead, ahead, plain):
        meter.committed(commit_with(plan), arrived_ns=1000)
    assert meter.passes == {Speculation.LOCKSTEP: 2, Speculation.PIPELINED: 2}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=8))
def test_what_was_judged_and_accepted_adds_up(windows: list[list[int]]) -> None:
    meter = Meter()
    for accepted, judged in windows:
        meter.committed(commit_with(DraftPlan(), judged=judged, accepted=accepted), arrived_ns=1000)
    usage = meter.usage(prompt_tokens=3)
    assert (usage.prompt_tokens, usage.verify_passes) == (3, len(windows))
    assert usage.accepted_tokens == sum(accepted for accepted, _ in windows)
    assert usage.tested_tokens == sum(min(accepted + 1, judged) for accepted, judged in windows)


def test_nobody_drafted_for_a_request_before_it_arrived() -> None:
    meter = Meter()
    for _ in range(2):
        meter.drafted(Block(1, 0, (5,), draft_ns=2**64 - 1), arrived_ns=meter.now_ns())
    assert 0 <= meter.usage(prompt_tokens=1).draft_ns < 10**9
