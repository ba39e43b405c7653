"""From logits to tokens, against a plain slow reference; and a row depends on its own logits alone."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sybil_engine.core.noise import NoiseTape, gumbel_noise
from sybil_engine.core.types import SamplingParams
from sybil_engine.sampling.draw import Draw, draw_rows, draw_tokens
from sybil_engine.sampling.shaping import shape_logits

pytestmark = pytest.mark.usefixtures("one_thread")

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 3, 5, 50]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 0.9]),
)
# A coarse grid has many ties; bfloat16 keeps 8 bits, as a model's logits do.
GRID_LOGITS = st.lists(st.integers(-8, 8).map(lambda step: step / 2), min_size=1, max_size=12)
BFLOAT16_LOGITS = st.lists(
    st.floats(-30, 30).map(lambda value: float(torch.tensor(value).bfloat16())), min_size=1, max_size=12
)


class NearThreshold(Exception):
    """A probability lies so near a threshold that rounding decides."""


def reference_probabilities(logits: list[float], params: SamplingParams) -> list[float]:
    """Temperature, then top-k, then top-p, then min-p, each on what is left, renormalised: slow, in float64."""
    peak = max(logits)
    weights = {token_id: math.exp((logit - peak) / params.temperature) for token_id, logit in enumerate(logits)}
    # The most likely first; ties to the lowest id, because sorting is stable.
    kept = sorted(range(len(logits)), key=lambda token_id: -logits[token_id])
    if params.top_k:
        kept = kept[: params.top_k]
    if params.top_p < 1:
        total = sum(weights[token_id] for token_id in kept)
        before, stays = 0.0, []
        for token_id in kept:
            if abs(before - params.top_p) < 1e-5:
                raise NearThreshold
            if before < params.top_p:
                stays.append(token_id)
            before += weights[token_id] / total
        kept = stays
    if params.min_p:
        floor = params.min_p * max(weights[token_id] for token_id in kept)
        if any(abs(weights[token_id] / floor - 1) < 1e-4 for token_id in kept):
            raise NearThreshold
        kept = [token_id for token_id in kept if weights[token_id] >= floor]
    total = sum(weights[token_id] for token_id in kept)
    return [weights[token_id] / total if token_id in kept else 0.0 for token_id in range(len(logits))]


def some_logits(rows: int, vocabulary_size: int, seed: int) -> Tensor:
    """Rounded as a bfloat16 model's, so that ties occur."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary_size, generator=generator) * 4).bfloat16().float()


@settings(max_examples=50)
@given(logits=GRID_LOGITS | BFLOAT16_LOGITS, params=PARAMS)
def test_shaping_is_temperature_then_top_k_then_top_p_then_min_p(logits: list[float], params: SamplingParams) -> None:
    try:
        expected = reference_probabilities(logits, params)
    except NearThreshold:
        assume(False)
    probabilities = torch.softmax(shape_logits(torch.tensor([logits]), params), dim=-1)[0].tolist()
    assert probabilities == pytest.approx(expected, abs=1e-5)
    # What is dropped is impossible, not just unlikely.
    assert [value == 0 for value in probabilities] == [value < 1e-38 for value in expected] or params.temperature < 0.5


@settings(max_examples=25)
@given(logits=st.lists(st.sampled_from([1.0, 2.0]), min_size=2, max_size=9), top_k=st.integers(1, 9))
def test_ties_at_the_cut_go_to_the_lowest_ids(logits: list[float], top_k: int) -> None:
    shaped = shape_logits(torch.tensor([logits]), SamplingParams(temperature=1.0, top_k=top_k))[0]
    kept = [token_id for token_id, value in enumerate(shaped.tolist()) if value > -math.inf]
    likeliest = sorted(range(len(logits)), key=lambda token_id: (-logits[token_id], token_id))[:top_k]
    assert kept == sorted(likeliest)


@settings(max_examples=25)
@given(logits=GRID_LOGITS)
def test_a_tie_in_the_draw_goes_to_the_lowest_id(logits: list[float]) -> None:
    row = torch.tensor([logits])
    assert draw_tokens(row, None).tolist() == [logits.index(max(logits))]
    assert draw_tokens(row, torch.zeros_like(row)).tolist() == [logits.index(max(logits))]


@pytest.mark.parametrize("vocabulary_size", [17, 4_096, 50_257])
def test_greedy_draws_the_most_likely_token_whatever_the_noise(vocabulary_size: int) -> None:
    logits = some_logits(5, vocabulary_size, seed=1)
    draws = [
        draw_rows(logits, [Draw(SamplingParams(), NoiseTape(seed, vocabulary_size), position, 5)])[0]
        for seed, position in ((0, 0), (1, 7))
    ]
    assert torch.equal(draws[0], draws[1])
    first_of_largest = [row.index(max(row)) for row in logits.tolist()]
    assert draws[0].tolist() == first_of_largest


@settings(max_examples=25)
@given(logits=BFLOAT16_LOGITS, top_p=st.sampled_from([1e-300, 1e-9, 0.01]), seed=st.integers(0, 99))
def test_the_most_likely_token_always_stays(logits: list[float], top_p: float, seed: int) -> None:
    params = SamplingParams(temperature=1.5, top_p=top_p, min_p=0.999)
    shaped = shape_logits(torch.tensor([logits]), params)
    assert float(shaped[0, logits.index(max(logits))]) > -math.inf
    drawn = int(draw_tokens(shaped, gumbel_noise([seed], [0], len(logits))))
    assert float(shaped[0, drawn]) > -math.inf


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-30, 1e-39, 5e-324])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    logits = torch.tensor([[1.0, 9.0, 3.0, -40.0], [-3.0, -2.0, -1.0, -7.0]])
    for params in (SamplingParams(temperature), SamplingParams(temperature, top_k=3, top_p=0.9, min_p=0.1)):
        drawn = draw_tokens(shape_logits(logits, params), gumbel_noise([1, 2], [3, 4], 4))
        assert drawn.tolist() == [1, 2]


SOME_PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_k=50),
    SamplingParams(temperature=0.7, top_p=0.9),
    SamplingParams(temperature=1.3, top_k=40, top_p=0.95, min_p=0.02),
]


@pytest.mark.parametrize("vocabulary_size", [13, 4_096])
@pytest.mark.parametrize("params", SOME_PARAMS, ids=str)
def test_a_row_is_shaped_the_same_bit_for_bit_in_any_batch(params: SamplingParams, vocabulary_size: int) -> None:
    logits = some_logits(33, vocabulary_size, seed=2)
    together = shape_logits(logits, params)
    for batch_size in (1, 2, 5, 16):
        parts = [shape_logits(part, params) for part in logits.split(batch_size)]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("vocabulary_size", [301, 2_048])
def test_drawing_for_many_sessions_equals_drawing_for_each_alone(seed: int, vocabulary_size: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def pick(most: int) -> int:
        return int(torch.randint(most, (), generator=generator))

    draws = [
        Draw(SOME_PARAMS[pick(len(SOME_PARAMS))], NoiseTape(pick(9), vocabulary_size), pick(500), 1 + pick(4))
        for _ in range(8)
    ]
    logits = some_logits(sum(draw.rows for draw in draws), vocabulary_size, seed)
    tokens, shaped = draw_rows(logits, draws)
    start = 0
    for draw in draws:
        rows = slice(start, start + draw.rows)
        alone_tokens, alone_shaped = draw_rows(logits[rows], [draw])
        assert torch.equal(tokens[rows], alone_tokens)
        assert torch.equal(shaped[rows], alone_shaped)
        for row in range(draw.rows):
            single = Draw(draw.params, draw.noise, draw.position + row, 1)
            assert torch.equal(draw_rows(logits[rows][row : row + 1], [single])[0], alone_tokens[row : row + 1])
        start = rows.stop


def test_shaping_leaves_the_logits_as_they_were() -> None:
    logits = some_logits(4, 64, seed=3)
    before = logits.clone()
    for params in SOME_PARAMS:
        shape_logits(logits, params)
    assert torch.equal(logits, before)
