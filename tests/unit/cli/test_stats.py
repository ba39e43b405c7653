"""Rates have one definition each, and none where there is nothing to divide by."""

from hypothesis import given
from hypothesis import strategies as st

from sybil_cli.stats import Counts, Stats

COUNTS = Counts(
    prompt_tokens=10,
    completion_tokens=30,
    verify_passes=12,
    drafted_tokens=50,
    tested_tokens=25,
    accepted_tokens=20,
    time_to_first_token_ns=100_000_000,
    total_ns=1_500_000_000,
    verify_ns=1_200_000_000,
    overlap_ns=900_000_000,
)


def test_each_rate_is_what_the_glossary_says() -> None:
    assert Stats.of(COUNTS) == Stats(
        tokens_per_second=20.0,
        time_to_first_token_ns=100_000_000,
        acceptance_rate=0.8,
        draft_efficiency=0.4,
        tokens_per_pass=2.5,
        overlap=0.75,
        wasted_draft_tokens=25,
        verify_passes=12,
    )


def test_what_is_undefined_without_drafts_is_none_and_not_zero() -> None:
    stats = Stats.of(Counts(completion_tokens=5, verify_passes=5, total_ns=10**9, verify_ns=10**9))
    assert stats.acceptance_rate is None
    assert stats.draft_efficiency is None
    assert stats.tokens_per_pass == 1.0
    assert stats.overlap == 0.0
    assert stats.wasted_draft_tokens == 0


def test_nothing_at_all_has_no_rates() -> None:
    stats = Stats.of(Counts())
    assert stats.tokens_per_second is None
    assert stats.time_to_first_token_ns is None
    assert stats.tokens_per_pass is None
    assert stats.overlap is None


counts = st.builds(Counts, *(st.integers(0, 10**6) for _ in range(11)))


@given(counts, counts)
def test_rates_of_a_sum_come_from_summed_counts(one: Counts, other: Counts) -> None:
    total = one + other
    assert total.accepted_tokens == one.accepted_tokens + other.accepted_tokens
    assert total.reopened_streams == one.reopened_streams + other.reopened_streams
    tested = one.tested_tokens + other.tested_tokens
    expected = (one.accepted_tokens + other.accepted_tokens) / tested if tested else None
    assert Stats.of(total).acceptance_rate == expected
