"""What a quality run measures is what docs/quality.md says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quality.divergence import Position, divergences
from quality.judge_setting import EXACT, JudgeSetting
from quality.measures import agreed_tokens, distinct, parses
from quality.run import is_exact
from quality.settings import SWEEP, QualitySettings
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.settings import parse

JUDGES = [JudgeSetting.of(name) for name in SWEEP]


def positions(seed: int, count: int = 6, vocabulary_size: int = 30) -> list[Position]:
    torch.manual_seed(seed)
    return [
        Position(target := 2 * torch.randn(vocabulary_size), target + torch.randn(vocabulary_size))
        for _ in range(count)
    ]


@pytest.mark.parametrize("temperature", [0, 0.7, 1])
@pytest.mark.parametrize("seed", range(3))
def test_exact_judges_lose_nothing_and_lossy_ones_something(seed: int, temperature: float) -> None:
    found = divergences(positions(seed), JUDGES, temperature, draws=64)
    assert found["shared-noise"] == found["ratio-test"] == 0
    assert found["top-k:8"] > 0
    assert all(loss >= 0 for loss in found.values())


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_the_more_a_judge_lets_stand_the_more_it_loses(temperature: float) -> None:
    found = divergences(positions(7, 20), JUDGES, temperature, draws=128)
    assert found["top-k:2"] <= found["top-k:3"] <= found["top-k:8"]
    assert found["threshold:0.6"] <= found["threshold:0.3"] <= found["threshold:0.1"]


def test_a_drafter_that_is_the_target_costs_nothing_under_any_judge() -> None:
    same = [Position(each.target_logits, each.target_logits) for each in positions(1)]
    assert set(divergences(same, JUDGES, 0.7, draws=64).values()) == {0.0}


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_agreed_tokens_are_a_common_beginning(one: list[int], other: list[int]) -> None:
    agreed = agreed_tokens(one, other)
    assert one[:agreed] == other[:agreed]
    assert one[agreed : agreed + 1] != other[agreed : agreed + 1] or agreed == min(len(one), len(other))


def test_distinct_counts_each_n_gram_once() -> None:
    assert distinct([[1, 2, 1, 2]], 1) == 0.5
    assert distinct([[1, 2], [1, 2]], 2) == 0.5
    assert distinct([[1]], 2) == 0.0


@pytest.mark.parametrize(
    ("completion", "is_python"),
    [("    return 1\n", True), ("    return 1\n    x = (\n", True), ("    return (\n", False), ("  ]\n" * 9, False)],
)
def test_python_may_break_off_but_not_in_its_first_line(completion: str, is_python: bool) -> None:
    assert parses("def f():\n", completion) is is_python


def test_names_of_judges_survive_and_wrong_ones_are_refused() -> None:
    assert [JudgeSetting.of(name).name for name in SWEEP] == list(SWEEP)
    assert JudgeSetting.of("top-k").parameter == 3
    for wrong in ("topk", "top-k:0.5", "threshold:2", "shared-noise:1"):
        with pytest.raises(InvalidSettings, match="each perhaps with its parameter as in top-k:3"):
            parse(QualitySettings, ["--judges", wrong], {})


@pytest.mark.parametrize(
    ("agreement", "divergence", "exact"), [(1.0, 0.0, True), (0.99, 0.0, False), (1.0, 1e-9, False)]
)
def test_a_run_is_exact_only_if_the_exact_judge_lost_nothing(agreement: float, divergence: float, exact: bool) -> None:
    judges = [{"judge": EXACT.name, "agreement": agreement, "divergence": divergence}]
    assert is_exact({"runs": [{"judges": judges}]}) is exact
