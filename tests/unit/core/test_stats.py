"""Rates of completions have one definition each, and none where nothing is to divide by."""

from hypothesis import given
from hypothesis import strategies as st

from sybil_engine.core.completion import Stats, Usage

USAGE = Usage(
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
    assert Stats.of(USAGE) == Stats(
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
    stats = Stats.of(Usage(completion_tokens=5, verify_passes=5, total_ns=10**9, verify_ns=10**9))
    assert stats.acceptance_rate is None
    assert stats.draft_efficiency is None
    assert stats.tokens_per_pass == 1.0
    assert stats.overlap == 0.0
    assert stats.wasted_draft_tokens == 0


def test_nothing_at_all_has_no_rates() -> None:
    stats = Stats.of(Usage())
    assert stats.tokens_per_second is None
    assert stats.time_to_first_token_ns is None
    assert stats.tokens_per_pass is None
    assert stats.overlap is None


usages = st.builds(Usage, *(st.integers(0, 10**6) for _ in range(11)))


@given(usages, usages)
def test_rates_of_several_completions_come_from_their_sums(one: Usage, other: Usage) -> None:
    tested = one.tested_tokens + other.tested_tokens
    expected = (one.accepted_tokens + other.accepted_tokens) / tested if tested else None
    assert Stats.of(one, other).acceptance_rate == expected
    assert Stats.of(one, other).verify_passes == one.verify_passes + other.verify_passes
