"""What a guess is worth is learned from other completions than its own."""

import math

import pytest

from simulator.calibration import Calibration
from simulator.synthetic import synthetic_trace

TOKENS = 5_000


def chance_of_best_guess(calibration: Calibration, seed: int, acceptance_rate: float) -> float:
    costs = calibration.costs(synthetic_trace(TOKENS, [acceptance_rate], seed))
    return math.exp(-sum(best for best, *_ in costs) / len(costs))


def test_a_completion_does_not_foretell_itself() -> None:
    good, bad = (synthetic_trace(TOKENS, [rate], seed) for seed, rate in enumerate((0.9, 0.3)))
    calibration = Calibration.of([good, bad])
    assert chance_of_best_guess(calibration, 0, 0.9) == pytest.approx(0.3, abs=0.03)
    assert chance_of_best_guess(calibration, 1, 0.3) == pytest.approx(0.9, abs=0.03)


def test_a_completion_that_stands_alone_is_foretold_by_one_chance_for_each_rank() -> None:
    trace = synthetic_trace(TOKENS, [0.6, 0.3])
    best, second = zip(*(costs[:2] for costs in Calibration.of([trace]).costs(trace)), strict=True)
    assert [math.exp(-cost) for cost in (min(best), max(best))] == pytest.approx([0.6, 0.6], abs=0.03)
    assert [math.exp(-cost) for cost in (min(second), max(second))] == pytest.approx([0.3, 0.3], abs=0.03)
