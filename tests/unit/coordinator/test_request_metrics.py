"""What the coordinator's metrics say of requests."""

import asyncio
from itertools import chain

import pytest

from coordinator.request_metrics import RequestMetrics
from coordinator.usage import Meter
from sybil_engine.core.errors import Exhausted
from sybil_engine.core.session import Commit
from sybil_engine.core.types import CommittedToken, DrafterCount, FinishReason

MS = 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time that meters read: its only element, in nanoseconds."""
    now = [0]
    monkeypatch.setattr(Meter, "now_ns", staticmethod(lambda: now[0]))
    return now


def values(metrics: RequestMetrics, **labels: str) -> dict[str, float]:
    samples = chain.from_iterable(metric.samples for metric in metrics.collect())
    return {
        each.name.removeprefix("sybil_"): each.value
        for each in samples
        if each.labels == labels and not each.name.endswith("_created")
    }


def commit(tokens: int) -> Commit:
    return Commit(0, 0, tuple(CommittedToken(token) for token in range(tokens)))


def test_the_tokens_of_one_message_share_the_time_since_the_last_one(clock: list[int]) -> None:
    metrics = RequestMetrics()
    with metrics.request() as meter:
        for arrives_ms, passages in ((40, [2]), (70, [2, 1]), (130, [2, 0])):
            clock[0] = arrives_ms * MS
            meter.committed(commit(sum(passages)), clock[0])
            for tokens in passages:
                clock[0] += 1000
                meter.delivered(tokens)
    assert values(metrics)["time_to_first_token_seconds_sum"] == pytest.approx(0.040, abs=1e-4)
    assert values(metrics)["time_to_first_token_seconds_count"] == 1
    assert values(metrics)["inter_token_latency_seconds_count"] == 5
    # Three of 10 ms, two of 30: none of the second passage's few microseconds.
    assert values(metrics, le="0.01")["inter_token_latency_seconds_bucket"] == 0
    assert values(metrics, le="0.02")["inter_token_latency_seconds_bucket"] == 3
    assert values(metrics, le="0.05")["inter_token_latency_seconds_bucket"] == 5


@pytest.mark.parametrize("leaving", [GeneratorExit, asyncio.CancelledError])
def test_a_client_that_leaves_before_the_end_cancels_its_request(leaving: type[BaseException]) -> None:
    metrics = RequestMetrics()
    for reason in (None, FinishReason.STOP):
        with pytest.raises(leaving), metrics.request() as meter:
            meter.finish_reason = reason
            raise leaving
    assert values(metrics)["request_cancellations_total"] == 1
    assert values(metrics, finished_reason="stop")["request_success_total"] == 1


def test_a_failure_counts_by_its_error() -> None:
    metrics = RequestMetrics()
    for error in (Exhausted("full"), Exhausted("full"), ValueError("a bug")):
        with pytest.raises(type(error)), metrics.request():
            raise error
    assert values(metrics, error="Exhausted")["request_failures_total"] == 2
    assert values(metrics, error="internal")["request_failures_total"] == 1
    assert values(metrics)["request_cancellations_total"] == 0


def judged_commit(position: int, *drafters: DrafterCount) -> Commit:
    judged, accepted = sum(each.judged for each in drafters), sum(each.accepted for each in drafters)
    return Commit(position, 0, (CommittedToken(1),), judged=judged, accepted=accepted, drafters=drafters)


def test_failovers_and_acceptance_name_the_service() -> None:
    metrics = RequestMetrics()
    with metrics.request() as meter:
        meter.drafter = "a:1"
        meter.committed(judged_commit(0, DrafterCount("model", 4, 2, 1)), 0)
        meter.reopened("drafter")
        meter.drafter = "b:2"
        meter.committed(judged_commit(2, DrafterCount("model", 4, 4, 4), DrafterCount("lookup", 3, 2, 1)), 0)
    assert values(metrics, service="drafter")["failovers_total"] == 1
    assert values(metrics, drafter="a:1") == {"tested_tokens_total": 2, "accepted_tokens_total": 1}
    assert values(metrics, drafter="b:2") == {"tested_tokens_total": 4, "accepted_tokens_total": 4}
    assert values(metrics, drafter="lookup") == {
        "drafted_tokens_total": 3,
        "tested_tokens_total": 2,
        "accepted_tokens_total": 1,
    }
