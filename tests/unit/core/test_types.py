"""Values that cannot be meant are refused where they are made."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import SamplingParams


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf, -math.inf])
def test_a_temperature_that_is_negative_or_not_finite_is_refused(temperature: float) -> None:
    with pytest.raises(InvalidRequest, match="temperature is"):
        SamplingParams(temperature=temperature)


@pytest.mark.parametrize("top_p", [0.0, -0.5, 1.0000001, math.nan, math.inf])
def test_a_top_p_outside_0_to_1_is_refused(top_p: float) -> None:
    with pytest.raises(InvalidRequest, match="top_p is"):
        SamplingParams(top_p=top_p)


@pytest.mark.parametrize("min_p", [-0.1, 1.0, math.nan])
def test_a_min_p_outside_0_to_1_is_refused(min_p: float) -> None:
    with pytest.raises(InvalidRequest, match="min_p is"):
        SamplingParams(min_p=min_p)


@pytest.mark.parametrize("top_k", [-1, 2**31])
def test_a_top_k_that_no_message_can_carry_is_refused(top_k: int) -> None:
    with pytest.raises(InvalidRequest, match=f"top_k is {top_k}"):
        SamplingParams(top_k=top_k)


def test_the_edges_of_each_range_are_allowed() -> None:
    params = SamplingParams(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    assert params.greedy
    assert params == SamplingParams()
    assert not replace(params, temperature=1e-9).greedy


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        SessionOpen((), 0)


@pytest.mark.parametrize("prompt_tokens", [-1, 0, 3])
def test_a_prompt_has_at_least_one_token_and_at_most_all(prompt_tokens: int) -> None:
    with pytest.raises(InvalidRequest, match="prompt_tokens is"):
        SessionOpen((1, 2), prompt_tokens)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(InvalidRequest, match="seed is"):
        SessionOpen((1,), 1, seed=seed)
    assert SessionOpen((1,), 1, seed=2**64 - 1).seed == 2**64 - 1


@pytest.mark.parametrize("least_chance", [-0.01, 1.01, math.nan, math.inf])
def test_a_least_chance_outside_0_to_1_is_refused(least_chance: float) -> None:
    with pytest.raises(InvalidRequest, match="least_chance is"):
        DraftPlan(least_chance=least_chance)
    assert [DraftPlan(least_chance=edge).least_chance for edge in (0, 1)] == [0, 1]


def test_values_that_cross_modules_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SamplingParams().temperature = 1.0  # type: ignore[misc]
