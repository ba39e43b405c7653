from hypothesis import given
from hypothesis import strategies as st

from coordinator.usage import Interval, Meter, count_tested, length_ns, median, overlap_ns
from sybil_engine.core.session import Commit
from sybil_engine.core.types import PassTimings, TokenOrigin

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
def test_the_first_rejection_is_tested_and_what_follows_it_is_not(window_tokens: int, data: st.DataObject) -> None:
    accepted = data.draw(st.integers(0, window_tokens))
    assert count_tested(window_tokens, accepted) == accepted + (1 if accepted < window_tokens else 0)


def test_the_median_is_a_value_that_was_measured() -> None:
    assert median([]) == 0
    assert median([3]) == 3
    assert median([9, 1]) == 1
    assert median([9, 1, 5]) == 5


def test_passes_whose_commits_arrive_together_last_as_long_as_they_lasted() -> None:
    meter = Meter()
    for position in (1, 2):
        timings = PassTimings(wait_ns=0, gap_ns=0, forward_ns=30, sampling_ns=1)
        commit = Commit(position, 0, (5,), (TokenOrigin.TARGET,), draft_budget=0, timings=timings)
        meter.committed(commit, arrived_ns=1000 + position)
    assert meter.usage().verify_ns == 62
