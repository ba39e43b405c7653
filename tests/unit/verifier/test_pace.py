"""A drafter's chances count as told while they predict what is drawn, and as measured when they do not."""

import random

import pytest

from sybil_engine.core.draft_tree import DraftNode
from sybil_engine.core.pass_times import PassTimes
from tests.unit.verifier.paces import pace_of
from verifier_service.policy.pace import Pace

GUESSED, RUNNER_UP, ANOTHER = 1, 2, 3


def fork(chance: float | None, hedge_chance: float | None = None) -> DraftNode:
    """A token with a guess after it, and perhaps a runner-up."""
    root = DraftNode(0, 0, 0)
    root.trunk_child = root.children[GUESSED] = DraftNode(1, GUESSED, 1, chance=chance, parent=root)
    if hedge_chance is not None:
        root.children[RUNNER_UP] = DraftNode(1, RUNNER_UP, 2, chance=hedge_chance, parent=root)
    return root


def see(pace: Pace, node: DraftNode, token_id: int) -> None:
    """What a pass that tested the guess makes of it."""
    pace.saw_draw(node, token_id)
    pace.saw_pass(tested_tokens=1, accepted_tokens=int(token_id == GUESSED))


def trusts(pace: Pace) -> bool:
    (node,) = fork(0.123).children.values()
    return pace.trusted_chance(node) == 0.123


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("right", "wrong"), [(3, 1), (0.6, 0.25), (1, 1), (1, 3), (75, 25)])
def test_calibrated_chances_are_always_trusted(right: float, wrong: float, seed: int) -> None:
    """Sure of much or of little, and the same for every token or not."""
    pace, rng = pace_of(), random.Random(f"{seed} {right} {wrong}")
    for _ in range(2_000):
        chance = rng.betavariate(right, wrong)
        see(pace, fork(chance), GUESSED if rng.random() < chance else ANOTHER)
        assert trusts(pace)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("acceptance_rate", "tokens"), [(0.0, 25), (0.3, 70), (0.4, 120)])
def test_a_drafter_that_is_always_sure_and_often_wrong_is_soon_not_trusted(
    acceptance_rate: float, tokens: int, seed: int
) -> None:
    pace, rng = pace_of(), random.Random(f"{seed} {acceptance_rate}")
    for _ in range(tokens):
        see(pace, fork(1.0, 1.0), GUESSED if rng.random() < acceptance_rate else ANOTHER)
    assert not trusts(pace)
    guess, runner_up = fork(1.0, 1.0).children.values()
    said_nothing = fork(None, None).children[GUESSED]
    assert pace.trusted_chance(guess) == pace.trusted_chance(said_nothing) == pace.acceptance_rate.value
    assert pace.trusted_chance(runner_up) < 0.3
    assert pace.chance(guess) == 1.0, "how far it drafts is still its own affair"


def test_a_drafter_that_lies_only_about_runners_up_is_not_trusted_either() -> None:
    pace, rng = pace_of(), random.Random(0)
    for _ in range(70):
        see(pace, fork(0.7, 1.0), GUESSED if rng.random() < 0.7 else ANOTHER)
    assert not trusts(pace)


def test_a_drafter_whose_chances_become_accurate_is_trusted_again() -> None:
    pace, rng = pace_of(), random.Random(0)
    for _ in range(50):
        see(pace, fork(1.0), ANOTHER)
    for _ in range(500):
        chance = rng.betavariate(3, 1)
        see(pace, fork(chance), GUESSED if rng.random() < chance else ANOTHER)
    assert trusts(pace)


def test_before_passes_of_one_kind_are_seen_those_of_the_other_are_used() -> None:
    beside, alone = PassTimes(), PassTimes()
    pace = Pace(beside, alone)
    beside.add(1, 13_000_000)
    assert pace.alone_times is pace.pass_times is beside
    alone.add(1, 10_000_000)
    assert (pace.pass_times, pace.alone_times) == (beside, alone)
