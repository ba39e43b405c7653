"""The sampler draws from the distribution that the parameters say, and the committed tokens from the target's.

Every chi-square test runs a second time with a sampler that is broken on purpose, and must reject it: a test that
accepts anything proves nothing.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sybil_engine.core.noise import Stream, gumbel_noise
from sybil_engine.core.types import SamplingParams
from sybil_engine.sampling.draw import draw_tokens
from sybil_engine.sampling.judges.equality import Equality
from sybil_engine.sampling.judges.judge import Window
from sybil_engine.sampling.shaping import shape_logits

SEEDS = range(1_000_000, 1_020_000)
POSITIONS = (41, 42)
# Two positions, so that what a sampler does at one may show at the other.
LOGITS = torch.tensor([[2.0, 1.5, 1.5, 0.5, 0.0, -0.5, -1.0, 0.25], [0.0, 1.0, -1.0, 2.0, 0.5, 1.75, 0.5, -0.5]])
VOCABULARY_SIZE = LOGITS.shape[1]

# A right sampler fails one run in ten thousand, and the seeds are fixed; a wrong one must miss by far.
ACCEPT_ABOVE = 1e-4
REJECT_BELOW = 1e-9

PARAMS = {
    "temperature 1": SamplingParams(temperature=1.0),
    "temperature 0.7": SamplingParams(temperature=0.7),
    "top-k 4": SamplingParams(temperature=0.7, top_k=4),
    "top-p 0.8": SamplingParams(temperature=1.0, top_p=0.8),
    "min-p 0.2": SamplingParams(temperature=1.3, min_p=0.2),
    "all of them": SamplingParams(temperature=1.3, top_k=6, top_p=0.9, min_p=0.1),
}
Sampler = Callable[[SamplingParams], Tensor]
"""Tokens as [seeds, 2 positions]."""


def noise_at(position: int, stream: Stream = Stream.TOKEN) -> Tensor:
    return gumbel_noise(SEEDS, [position] * len(SEEDS), VOCABULARY_SIZE, stream)


@pytest.fixture(scope="module")
def noise() -> dict[int, Tensor]:
    """Token noise of every seed, [seeds, vocabulary], by position."""
    return {position: noise_at(position) for position in POSITIONS}


def chi_square_p_value(observed: Tensor, expected: Tensor) -> float:
    """The chance of counts at least as far from the expected ones; 0 if something impossible was observed.

    Cells with fewer than five expected counts are pooled, as the approximation asks for.
    """
    observed, expected = observed.flatten().double(), expected.flatten().double()
    if bool((observed[expected == 0] > 0).any()):
        return 0.0
    small = expected < 5
    cells = [(observed[~small], expected[~small])]
    if float(expected[small].sum()) >= 5:
        cells.append((observed[small].sum().unsqueeze(0), expected[small].sum().unsqueeze(0)))
    observed, expected = torch.cat([pair[0] for pair in cells]), torch.cat([pair[1] for pair in cells])
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


def reference_probabilities(logits: list[float], params: SamplingParams) -> list[float]:
    """The shaped distribution by its definition, in plain Python."""
    weights = [math.exp(logit / params.temperature) for logit in logits]
    kept = sorted(range(len(logits)), key=lambda token_id: (-weights[token_id], token_id))
    kept = kept[: params.top_k or None]
    total = sum(weights[token_id] for token_id in kept)
    before = [sum(weights[other] for other in kept[:rank]) / total for rank in range(len(kept))]
    kept = [token_id for token_id, mass in zip(kept, before, strict=True) if mass < params.top_p]
    kept = [token_id for token_id in kept if weights[token_id] >= params.min_p * weights[kept[0]]]
    total = sum(weights[token_id] for token_id in kept)
    return [weights[token_id] / total if token_id in kept else 0.0 for token_id in range(len(logits))]


def joint_p_value(tokens: Tensor, params: SamplingParams) -> float:
    """How well pairs of tokens at neighbouring positions fit the product of the two distributions."""
    first, second = (torch.tensor(reference_probabilities(row, params), dtype=torch.float64) for row in LOGITS.tolist())
    pairs = torch.bincount(tokens[:, 0] * VOCABULARY_SIZE + tokens[:, 1], minlength=VOCABULARY_SIZE**2)
    return chi_square_p_value(pairs, torch.outer(first, second) * len(tokens))


def draw(shaped: Tensor, noise: list[Tensor]) -> Tensor:
    return torch.stack([draw_tokens(row, each) for row, each in zip(shaped, noise, strict=True)], dim=1)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_tokens_are_distributed_as_the_parameters_say(params: SamplingParams, noise: dict[int, Tensor]) -> None:
    tokens = draw(shape_logits(LOGITS, params), [noise[position] for position in POSITIONS])
    assert joint_p_value(tokens, params) > ACCEPT_ABOVE


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_control_noise_that_is_reused_across_positions_is_rejected(
    params: SamplingParams, noise: dict[int, Tensor]
) -> None:
    tokens = draw(shape_logits(LOGITS, params), [noise[POSITIONS[0]]] * 2)
    assert joint_p_value(tokens, params) < REJECT_BELOW


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_control_noise_with_the_wrong_sign_is_rejected(params: SamplingParams, noise: dict[int, Tensor]) -> None:
    tokens = draw(shape_logits(LOGITS, params), [-noise[position] for position in POSITIONS])
    assert joint_p_value(tokens, params) < REJECT_BELOW


@pytest.mark.parametrize(
    "params", [params for params in PARAMS.values() if params.temperature != 1], ids=lambda params: str(params)
)
def test_control_a_temperature_applied_to_logits_and_noise_alike_is_rejected(
    params: SamplingParams, noise: dict[int, Tensor]
) -> None:
    scaled = [noise[position] / params.temperature for position in POSITIONS]
    assert joint_p_value(draw(shape_logits(LOGITS, params), scaled), params) < REJECT_BELOW


@pytest.mark.parametrize("name", ["top-k 4", "top-p 0.8", "min-p 0.2", "all of them"])
def test_control_a_cut_whose_mass_goes_to_the_most_likely_token_is_rejected(
    name: str, noise: dict[int, Tensor]
) -> None:
    params = PARAMS[name]
    shaped = shape_logits(LOGITS, params)
    tokens = draw(LOGITS / params.temperature, [noise[position] for position in POSITIONS])
    for column, row in enumerate(shaped):
        dropped = row[tokens[:, column]] == -math.inf
        tokens[dropped, column] = int(row.argmax())
    assert joint_p_value(tokens, params) < REJECT_BELOW


@pytest.mark.parametrize("name", ["top-k 4", "top-p 0.8", "min-p 0.2"])
def test_control_a_cut_that_is_not_made_is_rejected(name: str, noise: dict[int, Tensor]) -> None:
    tokens = draw(LOGITS / PARAMS[name].temperature, [noise[position] for position in POSITIONS])
    assert joint_p_value(tokens, PARAMS[name]) < REJECT_BELOW


# ----------------------------------------------------------------------------------------------- two models, one noise


def toy_model(seed: int) -> Tensor:
    """Logits of the next token after each token, [vocabulary, vocabulary]; after the prompt comes row 0."""
    return torch.randn(VOCABULARY_SIZE, VOCABULARY_SIZE, generator=torch.Generator().manual_seed(seed))


TARGET = toy_model(1)
DRAFTERS = {
    "a drafter near the target": TARGET + 0.5 * toy_model(2),
    "a drafter that knows nothing": torch.zeros_like(TARGET),
    "a drafter that is wrong": -2 * TARGET,
    "the target itself": TARGET,
}


@pytest.mark.parametrize("drafter", ["a drafter near the target", "a drafter that knows nothing"])
def test_acceptance_under_shared_noise_lies_between_its_bounds(drafter: str, noise: dict[int, Tensor]) -> None:
    target, draft = torch.softmax(TARGET[0].double(), -1), torch.softmax(DRAFTERS[drafter][0].double(), -1)
    agree = draw_tokens(TARGET[0], noise[41]) == draw_tokens(DRAFTERS[drafter][0], noise[41])
    rate = float(agree.double().mean())
    error = 4 * math.sqrt(rate * (1 - rate) / len(SEEDS))
    distance = float((target - draft).abs().sum() / 2)
    # Daliri, Musco, Suresh 2024: at least (1 - TV) / (1 + TV); no coupling exceeds 1 - TV.
    assert (1 - distance) / (1 + distance) - error < rate < 1 - distance + error
    # And exactly: both choose token i with probability 1 / sum over j of max(target_j / target_i, draft_j / draft_i).
    ratios = torch.maximum(target[None, :] / target[:, None], draft[None, :] / draft[:, None])
    assert rate == pytest.approx(float((1 / ratios.sum(dim=1)).sum()), abs=error)


def test_without_shared_noise_acceptance_falls_below_the_bound(noise: dict[int, Tensor]) -> None:
    """The control: the same two distributions, drawn independently."""
    draft_logits = DRAFTERS["a drafter near the target"][0]
    target, draft = torch.softmax(TARGET[0].double(), -1), torch.softmax(draft_logits.double(), -1)
    agree = draw_tokens(TARGET[0], noise[41]) == draw_tokens(draft_logits, noise[42])
    distance = float((target - draft).abs().sum() / 2)
    assert float(agree.double().mean()) < (1 - distance) / (1 + distance) - 0.1


def speculate(draft: Tensor, noise: dict[int, Tensor], correction_noise: Tensor | None = None) -> Tensor:
    """Two committed tokens a seed, by draft-then-verify with a window of two.

    Args:
        correction_noise: what a broken sampler draws a rejected token's correction with.
    """
    drafted = draw_tokens(draft[0], noise[41])
    drafted = torch.stack([drafted, draw_tokens(draft[drafted], noise[42])], dim=1)
    first = draw_tokens(TARGET[0], noise[41])
    drawn = torch.stack([first, draw_tokens(TARGET[drafted[:, 0]], noise[42])], dim=1)
    committed = []
    corrections = draw_tokens(TARGET[0], correction_noise) if correction_noise is not None else first
    for row, (window, targets) in enumerate(zip(drafted.tolist(), drawn.tolist(), strict=True)):
        if Equality().judge(Window(0, 41, window, (), targets, TARGET)).accepted == 0:
            # The next pass starts after the target's own token.
            correction = int(corrections[row])
            committed.append([correction, int(draw_tokens(TARGET[correction], noise[42][row]))])
        else:
            committed.append(targets)
    return torch.tensor(committed)


def target_p_value(tokens: Tensor) -> float:
    first = torch.softmax(TARGET[0].double(), -1)
    joint = first[:, None] * torch.softmax(TARGET.double(), -1)
    pairs = torch.bincount(tokens[:, 0] * VOCABULARY_SIZE + tokens[:, 1], minlength=VOCABULARY_SIZE**2)
    return chi_square_p_value(pairs, joint * len(tokens))


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_committed_tokens_are_distributed_as_the_targets_whoever_drafts(drafter: str, noise: dict[int, Tensor]) -> None:
    assert target_p_value(speculate(DRAFTERS[drafter], noise)) > ACCEPT_ABOVE


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_committed_tokens_are_the_same_whoever_drafts(drafter: str, noise: dict[int, Tensor]) -> None:
    assert torch.equal(speculate(DRAFTERS[drafter], noise), speculate(TARGET, noise))


@pytest.mark.parametrize("drafter", [name for name in DRAFTERS if name != "the target itself"])
def test_control_a_correction_drawn_with_fresh_noise_is_rejected(drafter: str, noise: dict[int, Tensor]) -> None:
    fresh = noise_at(41, Stream.CORRECTION)
    assert target_p_value(speculate(DRAFTERS[drafter], noise, correction_noise=fresh)) < REJECT_BELOW
