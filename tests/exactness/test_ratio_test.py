"""The ratio test yields exactly the target's distribution: proved by enumeration with fractions, through `walk`.

That is the very function by which `RatioTest` judges. Coins and corrections are handed in, so that every drafted
window, every coin and every correction can be summed over. What is committed must be distributed as the target says.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from math import prod

import numpy as np
import pytest
import torch

from sybil_engine.core.noise import NoiseTape, Stream, uniform_noise
from sybil_engine.core.types import Distribution, SamplingParams
from sybil_engine.sampling import draw
from sybil_engine.sampling.draw import Draw, Guess, draw_cut_row
from sybil_engine.sampling.judges import ratio_test
from sybil_engine.sampling.judges.judge import Window
from sybil_engine.sampling.judges.ratio_test import Probabilities, RatioTest, remainder, walk
from tests.exactness.test_sampler_distribution import ACCEPT_ABOVE, REJECT_BELOW, chi_square_p_value

Model = Callable[[tuple[int, ...]], Probabilities]
"""The distribution of the token after some tokens."""

CORRECTED, FOLLOWING = -1, -2


def fractions(*values: Fraction | int) -> Probabilities:
    return np.array([Fraction(value) for value in values], dtype=object)


def distributions(tokens: int, parts: int) -> list[Probabilities]:
    """Every distribution over `tokens` tokens in steps of 1 / parts, zeros included."""
    steps = [counts for counts in product(range(parts + 1), repeat=tokens) if sum(counts) == parts]
    return [fractions(*(Fraction(count, parts) for count in counts)) for counts in steps]


def middles(cells: int) -> list[Fraction]:
    return [Fraction(2 * cell + 1, 2 * cells) for cell in range(cells)]


def coins_of(draft: Sequence[Fraction], target: Sequence[Fraction]) -> Iterator[tuple[Fraction, ...]]:
    """Coins that stand for all others, each for as much as any other.

    Whether a coin passes can change at one point only, a multiple of 1 / cells: the middles of the cells tell all.
    """
    ratios = (wanted / drafted for drafted, wanted in zip(draft, target, strict=True))
    return product(*(middles(ratio.denominator) for ratio in ratios))


def committed(
    draft_of: Model, target_of: Model, window_tokens: int, *, drawn_from: Model | None = None
) -> dict[tuple[int, ...], Fraction]:
    """The distribution of the first `window_tokens` + 1 tokens, if the target goes on alone after what is committed.

    Args:
        drawn_from: what drafts are really drawn from, if not from what the judge is told.
    """
    found: dict[tuple[int, ...], Fraction] = defaultdict(Fraction)
    for drafted in product(range(len(target_of(()))), repeat=window_tokens):
        prefixes = [drafted[:index] for index in range(window_tokens)]
        draft, target = ([model(prefix) for prefix in prefixes] for model in (draft_of, target_of))
        really = [(drawn_from or draft_of)(prefix) for prefix in prefixes]
        chance = prod(each[token_id] for each, token_id in zip(really, drafted, strict=True))
        if not chance:
            continue
        told, wanted = (
            [each[token_id] for each, token_id in zip(model, drafted, strict=True)] for model in (draft, target)
        )
        possible = [part or Fraction(1) for part in told]
        coins = list(coins_of(possible, wanted))
        for coin in coins:
            for token_ids, share in endings(drafted, draft, target, coin, target_of(drafted)):
                complete(found, token_ids, chance * share / len(coins), target_of, window_tokens + 1)
    return dict(found)


def endings(
    drafted: tuple[int, ...],
    draft: Sequence[Probabilities],
    target: Sequence[Probabilities],
    coin: Sequence[Fraction],
    following: Probabilities,
) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """What a walk with these coins may commit, and how likely: its last token is drawn, once."""
    corrections: list[Probabilities] = []

    def correct(index: int, probabilities: Probabilities) -> int:
        corrections.append(probabilities)
        return CORRECTED

    *stands, last = walk(drafted, draft, target, coin.__getitem__, correct, FOLLOWING)
    assert tuple(stands) == drafted[: len(stands)]
    assert last == (CORRECTED if corrections else FOLLOWING)
    for token_id, probability in enumerate(corrections[0] if corrections else following):
        if probability:
            yield (*stands, token_id), probability


def complete(
    found: dict[tuple[int, ...], Fraction], token_ids: tuple[int, ...], chance: Fraction, target_of: Model, length: int
) -> None:
    if len(token_ids) == length:
        found[token_ids] += chance
        return
    for token_id, probability in enumerate(target_of(token_ids)):
        if probability:
            complete(found, (*token_ids, token_id), chance * probability, target_of, length)


def wanted(target_of: Model, length: int) -> dict[tuple[int, ...], Fraction]:
    found: dict[tuple[int, ...], Fraction] = defaultdict(Fraction)
    complete(found, (), Fraction(1), target_of, length)
    return dict(found)


def always(probabilities: Probabilities) -> Model:
    return lambda prefix: probabilities


def some_model(tokens: int, parts: int, seed: int) -> Model:
    """A model of its own after each prefix, zeros included."""
    choices = distributions(tokens, parts)
    return lambda prefix: random.Random(f"{seed} {prefix}").choice(choices)


@pytest.mark.parametrize(("tokens", "parts"), [(2, 5), (3, 4), (4, 2)])
def test_the_committed_token_is_distributed_exactly_as_the_target_says(tokens: int, parts: int) -> None:
    every = distributions(tokens, parts)
    for draft, target in product(every, repeat=2):
        assert committed(always(draft), always(target), 1) == wanted(always(target), 2)


@pytest.mark.parametrize("window_tokens", [0, 2, 3])
@pytest.mark.parametrize("seed", range(15))
def test_a_whole_window_is_distributed_exactly_as_the_target_says(window_tokens: int, seed: int) -> None:
    draft_of, target_of = some_model(3, 4, seed), some_model(3, 3, seed + 1_000)
    assert committed(draft_of, target_of, window_tokens) == wanted(target_of, window_tokens + 1)


DRAFT = fractions(Fraction(3, 4), Fraction(1, 4), 0, 0)
TARGET = fractions(Fraction(1, 4), Fraction(1, 4), Fraction(1, 3), Fraction(1, 6))


def most_likely_of_the_rest(draft: Probabilities, target: Probabilities) -> Probabilities:
    one = target * 0
    one[np.argmax(target - draft)] = Fraction(1)
    return one


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda draft, target: target, id="the target itself, drawn again"),
        pytest.param(lambda draft, target: (draft + target) / 2, id="a mixture"),
        pytest.param(most_likely_of_the_rest, id="the most likely of the rest"),
    ],
)
@pytest.mark.parametrize("window_tokens", [1, 2])
def test_a_wrong_correction_is_caught_by_the_same_enumeration(
    wrong: Callable[[Probabilities, Probabilities], Probabilities], window_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = wanted(always(TARGET), window_tokens + 1)
    assert committed(always(DRAFT), always(TARGET), window_tokens) == right
    monkeypatch.setattr(ratio_test, "remainder", wrong)
    assert committed(always(DRAFT), always(TARGET), window_tokens) != right


@pytest.mark.parametrize("coin", [Fraction(0), Fraction(1)], ids=["accepts too much", "accepts too little"])
def test_a_wrong_coin_is_caught_by_the_same_enumeration(coin: Fraction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "middles", lambda cells: [coin])
    assert committed(always(DRAFT), always(TARGET), 1) != wanted(always(TARGET), 2)


def test_a_draft_drawn_from_the_whole_distribution_but_judged_by_its_cut_is_caught() -> None:
    """Why the drafter draws from exactly what it sends."""
    whole = fractions(Fraction(1, 2), Fraction(1, 4), Fraction(1, 4))
    target = fractions(Fraction(1, 4), Fraction(1, 2), Fraction(1, 4))
    cut = fractions(Fraction(2, 3), Fraction(1, 3), 0)
    assert committed(always(cut), always(target), 1) == wanted(always(target), 2)
    assert committed(always(cut), always(target), 1, drawn_from=always(whole)) != wanted(always(target), 2)


def stands(draft: Fraction | float, target: Fraction | float, coin: Fraction | float) -> bool:
    """Whether a token with these probabilities stands."""
    token_ids = walk(
        (0,),
        [np.array([draft, 1 - draft])],
        [np.array([target, 1 - target])],
        lambda index: coin,
        lambda index, beyond: CORRECTED,
        FOLLOWING,
    )
    return token_ids == (0, FOLLOWING)


def test_a_token_stands_with_the_probability_target_over_draft_and_a_smaller_coin_never_fails_it() -> None:
    for draft, target in product([Fraction(step, 7) for step in range(1, 8)], [Fraction(step, 5) for step in range(6)]):
        coins = middles((target / draft).denominator)
        passed = [stands(draft, target, coin) for coin in coins]
        assert Fraction(sum(passed), len(coins)) == min(Fraction(1), target / draft)
        assert passed == sorted(passed, reverse=True)


def test_equal_distributions_never_reject_and_leave_a_correction_that_can_be_drawn() -> None:
    for target in distributions(3, 4):
        assert all(stands(part, part, Fraction(999, 1000)) for part in target if part)
        assert list(remainder(target, target)) == list(target)


def test_a_token_that_its_own_distribution_does_not_name_never_stands() -> None:
    """Any distributions that a drafter may send."""
    for coin in middles(9):
        assert not stands(Fraction(0), Fraction(1, 2), coin)


def test_the_rules_work_on_floats_as_on_fractions() -> None:
    draft, target = np.array([0.75, 0.25, 0.0]), np.array([0.25, 0.25, 0.5])
    assert remainder(draft, target).tolist() == [0.0, 0.0, 1.0]
    assert stands(0.75, 0.25, 0.33)
    assert not stands(0.75, 0.25, 0.34)


@pytest.mark.parametrize("seed", range(40))
def test_the_engines_judge_walks_with_the_distributions_that_it_is_given(seed: int) -> None:
    """`RatioTest` on floats commits the same as the walk on exact fractions, for the same coins."""
    rng = random.Random(seed)
    draft = [rng.choice(distributions(4, 4)) for _ in range(3)]
    target = [rng.choice([each for each in distributions(4, 4) if all(each)]) for _ in range(4)]
    drafted = [rng.choice(np.flatnonzero(each).tolist()) for each in draft]
    sent = [Distribution(tuple(np.flatnonzero(each).tolist()), tuple(map(float, each[each > 0]))) for each in draft]
    shaped = torch.tensor([list(map(float, each)) for each in target]).log()
    token_ids = RatioTest().judge(Window(seed, 9, drafted, sent, [0, 0, 0, 3], shaped)).token_ids
    coins: Mapping[int, float] = {
        index: float(uniform_noise([seed], [9 + index], 1, Stream.COIN)[0, 0]) for index in range(3)
    }
    *stood, last = walk(drafted, draft, target, coins.__getitem__, lambda index, beyond: CORRECTED, 3)
    assert token_ids[:-1] == tuple(stood)
    if last == CORRECTED:
        assert remainder(draft[len(stood)], target[len(stood)])[token_ids[-1]] > 0
    else:
        assert token_ids[-1] == 3


# ------------------------------------------------------------------------------------------------------------- the cut

CUT_SEEDS = range(4_000)
CUT_SAMPLING = SamplingParams(temperature=1.3, top_k=7)


def cut_row(logits: Sequence[float], seed: int, position: int = 5, params: SamplingParams = CUT_SAMPLING) -> Guess:
    return draw_cut_row(torch.tensor(logits), Draw(params, NoiseTape(seed, len(logits)), position, 1))


def likeliest(logits: Sequence[float], most: int) -> list[int]:
    return sorted(range(len(logits)), key=lambda token_id: (-logits[token_id], token_id))[:most]


@pytest.mark.parametrize("keep_tokens", [1, 2, 3, 64])
@pytest.mark.parametrize("seed", range(20))
def test_a_cut_keeps_the_most_likely_tokens_and_their_proportions(
    keep_tokens: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw, "CUT_TOKENS", keep_tokens)
    rng = random.Random(seed)
    # On a coarse grid, so that there are ties: they go to the lowest token id.
    logits = [rng.randint(-4, 4) / 2 for _ in range(12)]
    sent = cut_row(logits, seed).distribution
    assert sent is not None
    kept = likeliest(logits, min(keep_tokens, CUT_SAMPLING.top_k))
    assert list(sent.token_ids) == kept
    assert sum(sent.probabilities) == pytest.approx(1)
    weights = [float(np.exp(logits[token_id] / CUT_SAMPLING.temperature)) for token_id in kept]
    assert list(sent.probabilities) == pytest.approx([weight / sum(weights) for weight in weights])


@pytest.mark.parametrize("keep_tokens", [3, 64])
def test_drafts_are_drawn_from_exactly_what_is_sent(keep_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = [1.0, 0.5, 0.5, 0.0, -0.5, 0.75, -1.0, 0.25]

    def p_value() -> float:
        guesses = [cut_row(logits, seed) for seed in CUT_SEEDS]
        (sent,) = {guess.distribution for guess in guesses}
        assert sent is not None
        place = {token_id: index for index, token_id in enumerate(sent.token_ids)}
        assert all(guess.certainty == sent.probabilities[place[guess.token_id]] for guess in guesses)
        counts = torch.bincount(torch.tensor([place[guess.token_id] for guess in guesses]), minlength=len(place))
        return chi_square_p_value(counts, torch.tensor(sent.probabilities) * len(CUT_SEEDS))

    monkeypatch.setattr(NoiseTape, "_MOST_POSITIONS", 1)
    monkeypatch.setattr(draw, "CUT_TOKENS", keep_tokens)
    assert p_value() > ACCEPT_ABOVE
    # The control: noise that is half as strong draws the likely tokens too often.
    rows = NoiseTape.rows
    monkeypatch.setattr(NoiseTape, "rows", lambda *args: rows(*args) / 2)
    assert p_value() < REJECT_BELOW
