"""Which judge a session has, and what equality under shared noise lets stand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.acceptance import LOSSY, check_acceptance
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import AcceptanceRule, SamplingParams
from sybil_engine.sampling.judges import judge_for
from sybil_engine.sampling.judges.equality import Equality
from sybil_engine.sampling.judges.judge import Judge, Verdict, Window
from sybil_engine.sampling.judges.ratio_test import RatioTest
from sybil_engine.sampling.judges.threshold import Threshold
from sybil_engine.sampling.judges.top_k import TopK
from sybil_engine.sampling.judges.typical import Typical

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


def judge(rule: AcceptanceRule, temperature: float = 0.5, parameter: float = 0.0) -> Judge:
    sampling = SamplingParams(temperature=temperature)
    return judge_for(SessionOpen((1,), 1, sampling=sampling, acceptance_rule=rule, acceptance_parameter=parameter))


@pytest.mark.parametrize("rule", [AcceptanceRule.SHARED_NOISE, AcceptanceRule.RATIO_TEST])
def test_greedy_tokens_are_judged_by_equality_under_every_lossless_rule(rule: AcceptanceRule) -> None:
    assert judge(rule, temperature=0) == Equality()


@pytest.mark.parametrize("temperature", [0, 0.5])
def test_tokens_are_judged_by_the_rule_that_was_asked_for(temperature: float) -> None:
    assert judge(AcceptanceRule.SHARED_NOISE, temperature) == Equality()
    assert judge(AcceptanceRule.RATIO_TEST) == RatioTest()
    assert judge(AcceptanceRule.TYPICAL, temperature, 0.2) == Typical(0.2)
    assert judge(AcceptanceRule.TOP_K, temperature, 5) == TopK(5)
    assert judge(AcceptanceRule.THRESHOLD, temperature) == Threshold(LOSSY[AcceptanceRule.THRESHOLD].default)


@pytest.mark.parametrize(
    ("rule", "parameter", "complaint"),
    [
        (AcceptanceRule.TOP_K, 2.5, "a whole number from 1 to 1000, or 0 for 3"),
        (AcceptanceRule.TOP_K, -1, "a whole number from 1 to 1000"),
        (AcceptanceRule.THRESHOLD, 1.5, "the least probability of an accepted token: a number from 1e-06 to 1"),
        (AcceptanceRule.TYPICAL, math.nan, "a number from 1e-06 to 1"),
        (AcceptanceRule.SHARED_NOISE, 0.3, "shared-noise has no parameter; leave it out"),
    ],
)
def test_a_parameter_out_of_range_is_refused(rule: AcceptanceRule, parameter: float, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        check_acceptance(rule, parameter, allowed=LOSSY)


@pytest.mark.parametrize("rule", LOSSY)
def test_a_lossy_rule_needs_the_servers_consent(rule: AcceptanceRule) -> None:
    with pytest.raises(InvalidRequest, match=f"does not allow it; start .* with --allow-lossy {rule.value}"):
        check_acceptance(rule, 0, allowed=())
    assert check_acceptance(rule, 0, allowed=(rule,)) == LOSSY[rule].default


PROBABILITIES = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]])
SHAPED = torch.cat([PROBABILITIES.log(), torch.zeros(1, 4)])


@pytest.mark.parametrize(
    ("rule", "drafted", "accepted"),
    [
        # The rows demand 0.09 (0.3 * exp(-entropy) is 0.096 in the first), 0.09 and 0.075.
        (Typical(0.09), [1, 0, 3], 3),
        (Typical(0.09), [3, 0, 3], 0),
        (Typical(0.09), [2, 1, 3], 1),
        (TopK(2), [1, 0, 3], 3),
        (TopK(2), [2, 0, 0], 0),
        (TopK(1), [0, 0, 2], 3),
        (Threshold(0.3), [1, 0, 0], 2),
        (Threshold(0.31), [1, 0, 0], 0),
    ],
)
def test_lossy_judges_accept_what_they_hold_to_be_good_enough(rule: Judge, drafted: list[int], accepted: int) -> None:
    # The target's own draws are tokens that nobody drafted.
    drawn = [6, 7, 8, 9]
    assert rule.judge(Window(0, 3, drafted, (), drawn, SHAPED)).token_ids == (*drafted[:accepted], drawn[accepted])


@pytest.mark.parametrize("rule", [Typical(0.99), TopK(1), Threshold(1.0)])
def test_the_targets_own_draw_always_stands(rule: Judge) -> None:
    assert rule.judge(Window(0, 3, [3, 2, 1], (), [3, 2, 1, 0], SHAPED)) == Verdict((3, 2, 1, 0))


@pytest.mark.parametrize("rule", [Typical(0.09), TopK(3), Threshold(0.3)])
def test_a_lossy_judge_says_so_and_reads_its_own_rows(rule: Judge) -> None:
    assert not rule.lossless
    assert not rule.wants_distributions
    shaped = torch.cat([torch.full((2, 4), -5.0), SHAPED])
    assert rule.judge(Window(0, 3, [1, 0, 3], (), [9] * 4, shaped, first_row=2)).accepted >= 2
    assert rule.judge(Window(0, 3, [], (), [7], shaped)) == Verdict((7,))


def test_only_the_ratio_test_asks_what_tokens_were_drawn_from_and_it_allows_no_hedges() -> None:
    """Several drafts for a position would each be a chance to be accepted."""
    assert (Equality.lossless, Equality.wants_distributions, Equality.allows_hedges) == (True, False, True)
    assert (RatioTest.lossless, RatioTest.wants_distributions, RatioTest.allows_hedges) == (True, True, False)
