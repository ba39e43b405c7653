"""Which judge a session has, and what equality under shared noise lets stand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.types import AcceptanceRule, SamplingParams
from sybil_engine.sampling.judges import judge_for
from sybil_engine.sampling.judges.equality import Equality
from sybil_engine.sampling.judges.judge import Verdict, Window
from sybil_engine.sampling.judges.ratio_test import RatioTest

TOKENS = st.lists(st.integers(0, 2), max_size=6)


def judged(drafted: list[int], drawn: list[int]) -> Verdict:
    return Equality().judge(Window(0, 3, drafted, (), drawn, torch.empty(len(drawn), 0)))


@pytest.mark.parametrize(
    ("drafted", "drawn", "accepted"),
    [
        ([], [5], 0),
        ([1], [1, 2], 1),
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 9, 3, 4], 1),
        ([9, 2, 3], [1, 2, 3, 4], 0),
    ],
)
def test_under_shared_noise_the_tokens_before_the_first_difference_stand(
    drafted: list[int], drawn: list[int], accepted: int
) -> None:
    verdict = judged(drafted, drawn)
    assert verdict.accepted == accepted
    assert verdict.token_ids == (*drafted[:accepted], drawn[accepted])


@settings(max_examples=100)
@given(drafted=TOKENS, data=st.data())
def test_under_shared_noise_every_committed_token_is_the_targets_own_draw(
    drafted: list[int], data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(st.integers(0, 2), min_size=len(drafted) + 1, max_size=len(drafted) + 1))
    token_ids = judged(drafted, drawn).token_ids
    assert token_ids == tuple(drawn[: len(token_ids)])
    assert 1 <= len(token_ids) <= len(drafted) + 1
    # It stops at a difference, or at the window's end, and nowhere else.
    assert len(token_ids) == len(drafted) + 1 or token_ids[-1] != drafted[len(token_ids) - 1]


@pytest.mark.parametrize("rule", AcceptanceRule)
def test_greedy_tokens_are_judged_by_equality_whatever_the_rule(rule: AcceptanceRule) -> None:
    assert judge_for(rule, SamplingParams()) == Equality()


def test_sampled_tokens_are_judged_by_the_rule_that_was_asked_for() -> None:
    sampled = SamplingParams(temperature=0.5)
    assert judge_for(AcceptanceRule.SHARED_NOISE, sampled) == Equality()
    assert judge_for(AcceptanceRule.RATIO_TEST, sampled) == RatioTest()


def test_only_the_ratio_test_asks_what_tokens_were_drawn_from_and_it_allows_no_hedges() -> None:
    """Several drafts for a position would each be a chance to be accepted."""
    assert (Equality.lossless, Equality.wants_distributions, Equality.allows_hedges) == (True, False, True)
    assert (RatioTest.lossless, RatioTest.wants_distributions, RatioTest.allows_hedges) == (True, True, False)
