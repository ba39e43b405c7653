"""What a client saw: latencies that are right when several tokens come at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.record import Arrival, RequestRecord, Status, bursts, token_gaps_ns
from loadtest.slo import Slo
from sybil_engine.core.errors import InvalidSettings

MS = 1_000_000


def record(*arrivals: Arrival, due_ns: int = 0, status: Status = Status.COMPLETED) -> RequestRecord:
    tokens = sum(count for _, count in arrivals)
    end_ns = arrivals[-1][0] if arrivals else due_ns
    return RequestRecord(0, due_ns, end_ns, status, arrivals, tuple(range(tokens)))


@given(st.lists(st.tuples(st.integers(0, 50 * MS), st.integers(1, 9)), min_size=1))
def test_the_gaps_of_a_request_add_up_to_the_time_from_its_first_burst_to_its_last(steps: list[Arrival]) -> None:
    times = [sum(step for step, _ in steps[: number + 1]) for number in range(len(steps))]
    arrivals = [(time_ns, count) for time_ns, (_, count) in zip(times, steps, strict=True)]
    gaps, merged = token_gaps_ns(arrivals), bursts(arrivals)
    assert len(gaps) == sum(count for _, count in arrivals) - 1
    assert sum(gaps) == pytest.approx(merged[-1][0] - merged[0][0])


def test_tokens_of_one_message_share_the_time_since_the_last_one() -> None:
    assert token_gaps_ns([(0, 1), (30 * MS, 3), (40 * MS, 1)]) == [10 * MS, 10 * MS, 10 * MS, 10 * MS]


def test_messages_of_one_pass_are_one_burst() -> None:
    in_two = [(0, 1), (30 * MS, 2), (30 * MS + 1000, 1)]
    assert token_gaps_ns(in_two) == token_gaps_ns([(0, 1), (30 * MS, 3)])


def test_tokens_that_come_with_the_first_waited_no_longer() -> None:
    assert token_gaps_ns([(5 * MS, 3)]) == [0, 0]
    assert token_gaps_ns([]) == []


def test_times_count_from_when_the_request_was_due() -> None:
    seen = record((50 * MS, 1), (90 * MS, 4), due_ns=20 * MS)
    assert (seen.ttft_ns, seen.tpot_ns, seen.total_ns) == (30 * MS, 10 * MS, 70 * MS)
    assert record().ttft_ns is None
    assert record((1, 1)).tpot_ns is None


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ("ttft=50ms", True),
        ("ttft=49.9ms", False),
        ("tpot=10ms,ttft=1s", True),
        ("ttft=1s, tpot=9999us", False),
        ("e2e=0.09s", True),
        ("e2e=89ms", False),
    ],
)
def test_a_request_is_good_within_every_limit(limits: str, kept: bool) -> None:
    assert Slo.parse(limits).kept_by(record((50 * MS, 1), (90 * MS, 4))) is kept


def test_only_a_completed_request_is_good() -> None:
    assert not Slo.parse("ttft=1s").kept_by(record((1, 1), status=Status.CANCELLED))


@pytest.mark.parametrize(
    "text", ["ttft", "ttft=1", "ttft=-1s", "itl=5ms", "ttft=1s,ttft=2s", "ttft=0s", "ttft=1s;tpot=1s", ","]
)
def test_limits_without_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="--slo"):
        Slo.parse(text)
