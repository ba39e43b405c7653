"""Continuations ranked under the noise are drawn as often as is said; without it, less is known."""

import random

import pytest
import torch

from sybil_engine.core.noise import gumbel_noise
from sybil_engine.proposers.under_noise import rank

VOCABULARY = 20
POSITIONS = 4000


def target_probabilities(source: random.Random) -> torch.Tensor:
    """Sure in half of the places, as a language model is."""
    probabilities = torch.tensor([source.random() for _ in range(VOCABULARY)])
    if source.random() < 0.5:
        probabilities[source.randrange(4)] += 100
    return probabilities / probabilities.sum()


def test_the_winner_under_the_noise_is_right_more_often_and_its_chance_is_a_better_forecast() -> None:
    source = random.Random(3)
    right_plain = right_noisy = 0
    error_plain = error_noisy = said = 0.0
    noise = gumbel_noise([5] * POSITIONS, range(POSITIONS), VOCABULARY)
    for position in range(POSITIONS):
        probabilities = target_probabilities(source)
        drawn = int((probabilities.log() + noise[position]).argmax())
        # What a proposer may know: some tokens, and about how likely they are on average.
        chances = [0.15, 0.15, 0.15]
        ranked = rank([0, 1, 2], chances, noise[position])
        winner, chance = ranked[0]
        right_plain += drawn == 0
        right_noisy += drawn == winner
        error_plain += (chances[winner] - (drawn == winner)) ** 2
        error_noisy += (chance - (drawn == winner)) ** 2
        said += chance
        assert [chance for _, chance in ranked] == sorted((chance for _, chance in ranked), reverse=True)
        assert all(0 < chance < 1 for _, chance in ranked)
    assert right_noisy > 1.1 * right_plain
    assert error_noisy < error_plain


@pytest.mark.parametrize("seed", range(3))
def test_where_estimates_are_the_targets_own_the_winner_is_the_token_it_draws(seed: int) -> None:
    source = random.Random(seed)
    noise = gumbel_noise([seed] * 200, range(200), VOCABULARY)
    for position in range(200):
        probabilities = torch.tensor([source.random() + 0.01 for _ in range(VOCABULARY)])
        probabilities = probabilities / probabilities.sum()
        drawn = int((probabilities.log() + noise[position]).argmax())
        ranked = rank(range(VOCABULARY), [float(each) for each in probabilities], noise[position])
        assert ranked[0][0] == drawn
