"""The ratio test yields exactly the target's distribution: proved by enumeration with fractions, through the real code.

A drafted token is drawn from the cut draft distribution, judged with a uniform coin, and replaced on rejection. Summed
over every drafted token and every correction, the committed token must be distributed as the target says.
"""

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from sybil_engine.sampling.acceptance import (
    Probabilities,
    correction_distribution,
    count_accepted,
    cut_to_most_likely,
    passes_ratio_test,
)

Correction = Callable[[Probabilities, Probabilities], Probabilities]


def distributions(tokens: int, parts: int) -> list[Probabilities]:
    """Every distribution over `tokens` tokens in steps of 1 / parts, zeros included."""
    steps = [counts for counts in product(range(parts + 1), repeat=tokens) if sum(counts) == parts]
    return [np.array([Fraction(count, parts) for count in counts], dtype=object) for counts in steps]


def acceptance_probability(draft_probability: Fraction, target_probability: Fraction) -> Fraction:
    """The share of coins in (0, 1) with which the rule accepts, integrated exactly.

    Whether a coin passes can change at one point only, a multiple of 1 / cells: the middles of the cells tell all.
    """
    cells = (target_probability / draft_probability).denominator
    coins = [Fraction(2 * cell + 1, 2 * cells) for cell in range(cells)]
    passed = [passes_ratio_test(draft_probability, target_probability, coin) for coin in coins]
    assert passed == sorted(passed, reverse=True), "a larger coin never passes where a smaller one fails"
    return Fraction(sum(passed), cells)


def committed_distribution(draft: Probabilities, target: Probabilities, correct: Correction) -> list[Fraction]:
    committed = [Fraction(0)] * len(target)
    for drafted in np.flatnonzero(draft):
        accepted = acceptance_probability(draft[drafted], target[drafted])
        committed[drafted] += draft[drafted] * accepted
        if accepted < 1:
            correction = correct(draft, target)
            for token_id, probability in enumerate(correction):
                committed[token_id] += draft[drafted] * (1 - accepted) * probability
    return committed


PAIRS = [
    (draft, target)
    for tokens, parts in ((2, 5), (3, 4), (4, 2))
    for draft, target in product(distributions(tokens, parts), repeat=2)
]


@pytest.mark.parametrize("keep_tokens", [1, 2, 3, 64])
def test_the_committed_token_is_distributed_exactly_as_the_target_says(keep_tokens: int) -> None:
    for whole_draft, target in PAIRS:
        draft = cut_to_most_likely(whole_draft, keep_tokens)
        assert committed_distribution(draft, target, correction_distribution) == list(target)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda draft, target: target, id="the target itself, drawn again"),
        pytest.param(lambda draft, target: (draft + target) / 2, id="a mixture"),
        pytest.param(
            lambda draft, target: cut_to_most_likely(np.maximum(target - draft, 0), 1), id="the most likely of the rest"
        ),
    ],
)
def test_a_wrong_correction_is_caught_by_the_same_enumeration(wrong: Correction) -> None:
    draft = np.array([Fraction(3, 4), Fraction(1, 4), Fraction(0), Fraction(0)], dtype=object)
    target = np.array([Fraction(1, 4), Fraction(1, 4), Fraction(1, 3), Fraction(1, 6)], dtype=object)
    assert committed_distribution(draft, target, correction_distribution) == list(target)
    assert committed_distribution(draft, target, wrong) != list(target)


def test_a_draft_drawn_from_the_whole_distribution_but_judged_by_its_cut_is_caught() -> None:
    """Why the drafter draws from exactly what it sends."""
    whole = np.array([Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], dtype=object)
    target = np.array([Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)], dtype=object)
    cut = cut_to_most_likely(whole, 2)
    committed = [Fraction(0)] * 3
    for drafted in range(3):
        accepted = acceptance_probability(cut[drafted], target[drafted]) if cut[drafted] else Fraction(0)
        committed[drafted] += whole[drafted] * accepted
        for token_id, probability in enumerate(correction_distribution(cut, target)):
            committed[token_id] += whole[drafted] * (1 - accepted) * probability
    assert committed != list(target)


@pytest.mark.parametrize("keep_tokens", [1, 2, 3])
def test_a_cut_keeps_the_most_likely_tokens_and_their_proportions(keep_tokens: int) -> None:
    for whole in distributions(4, 4):
        cut = cut_to_most_likely(whole, keep_tokens)
        likeliest = sorted(range(4), key=lambda token_id: (-whole[token_id], token_id))[:keep_tokens]
        kept_mass = sum(whole[likeliest])
        expected = [whole[token_id] / kept_mass if token_id in likeliest else 0 for token_id in range(4)]
        assert list(cut) == expected
        assert sum(cut) == 1


def test_a_token_is_accepted_with_the_probability_target_over_draft() -> None:
    for draft, target in product([Fraction(step, 7) for step in range(1, 8)], [Fraction(step, 5) for step in range(6)]):
        assert acceptance_probability(draft, target) == min(Fraction(1), target / draft)


def test_equal_distributions_never_reject_and_leave_a_correction_that_can_be_drawn() -> None:
    for target in distributions(3, 4):
        assert all(acceptance_probability(part, part) == 1 for part in target if part)
        assert list(correction_distribution(target, target)) == list(target)


def test_the_rules_work_on_floats_as_on_fractions() -> None:
    draft, target = np.array([0.75, 0.25, 0.0]), np.array([0.25, 0.25, 0.5])
    assert correction_distribution(draft, target).tolist() == [0.0, 0.0, 1.0]
    assert cut_to_most_likely(draft, 1).tolist() == [1.0, 0.0, 0.0]
    assert passes_ratio_test(0.75, 0.25, 0.33) is True
    assert passes_ratio_test(0.75, 0.25, 0.34) is False


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
    assert count_accepted(drafted, drawn) == accepted
