"""The figures say what docs/benchmarks.md says they say."""

from collections.abc import AsyncGenerator

import pytest

from benchmarks.arms import ArmKind, BenchTask, EngineArm, by_category, first_commit_tokens, with_best_windows
from benchmarks.differences import find_differences
from benchmarks.figures import arm_figures, measured_figures, measurement_figures, round_figures
from benchmarks.measurement import Measurement, speed_ratio
from sybil_engine.core.completion import Delta
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import Speculation, TokenOrigin


def no_engine(request: GenerationRequest) -> AsyncGenerator[Delta, None]:
    raise AssertionError("nothing is generated")


def measurement(tokens: int, duration_s: float, **counts: float) -> Measurement:
    return Measurement(tuple(range(tokens)), duration_s, counts)


def test_a_ratio_is_the_median_of_the_ratios_prompt_by_prompt() -> None:
    fast = [measurement(10, 1), measurement(10, 10), measurement(10, 100)]
    slow = [measurement(10, 2), measurement(10, 30), measurement(10, 100)]
    ratio = speed_ratio(fast, slow)
    assert ratio["median"] == pytest.approx(2)
    assert 1 <= ratio["low"] <= ratio["median"] <= ratio["high"] <= 3


def test_the_verifier_is_idle_for_what_its_passes_leave_of_decode_time() -> None:
    # Five passes of 20 ms, the first before the first token; 100 ms from the first token to the last.
    counts = {"verify_passes": 5, "verify_ns": 100e6, "total_ns": 150e6, "time_to_first_token_ns": 50e6, "draft_ns": 0}
    assert arm_figures([measurement(9, 1, **counts)])["verifier_idle"] == pytest.approx(1 - 80 / 100)
    assert arm_figures([measurement(9, 1)])["verifier_idle"] is None


def test_the_fastest_lockstep_window_is_reported_as_lockstep() -> None:
    measured = {
        "off": [measurement(10, 3)],
        "lockstep-3": [measurement(10, 2)],
        "lockstep-5": [measurement(10, 1)],
        "auto": [measurement(10, 1)],
    }
    arms = [EngineArm(no_engine, ArmKind(Speculation.LOCKSTEP), window_tokens) for window_tokens in (3, 5)]
    kept, windows = with_best_windows(measured, arms)
    assert windows == {"lockstep": 5}
    assert list(kept) == ["off", "lockstep", "auto"]
    assert kept["lockstep"] == measured["lockstep-5"]
    assert with_best_windows({"off": measured["off"]}, []) == ({"off": measured["off"]}, {})


def test_every_pair_of_arms_has_a_ratio_each_way() -> None:
    figures = measured_figures({name: [measurement(10, 1)] for name in ("off", "auto", "transformers")})
    assert len(figures["ratios"]) == 6
    assert figures["ratios"]["auto/transformers"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert figures["arms"]["transformers"]["acceptance_rate"] is None


def test_rates_are_those_of_all_completions_together() -> None:
    times = {"total_ns": 4e6, "time_to_first_token_ns": 1e6, "verify_ns": 4e6, "draft_ns": 0, "overlap_ns": 2e6}
    counts = times | {"drafted_tokens": 9, "tested_tokens": 4, "accepted_tokens": 3}
    counts |= {"completion_tokens": 8, "verify_passes": 4}
    other = dict.fromkeys(counts, 0.0) | {"tested_tokens": 4, "drafted_tokens": 3, "verify_passes": 4}
    arm = measured_figures({"auto": [measurement(8, 1, **counts), measurement(8, 1, **other)]})["arms"]["auto"]
    assert arm["acceptance_rate"] == 3 / 8
    assert arm["draft_efficiency"] == 3 / 12
    assert arm["tokens_per_pass"] == 1
    assert arm["wasted_draft_tokens"] == 4


def test_a_first_commit_ends_with_the_targets_own_token() -> None:
    drafted, own = TokenOrigin.DRAFTED, TokenOrigin.TARGET
    assert first_commit_tokens([own, own]) == 1
    assert first_commit_tokens([drafted, drafted, own, drafted, own]) == 3
    # A session that its first pass ends within the window.
    assert first_commit_tokens([drafted, drafted]) == 2


def test_each_completion_stands_by_itself_with_all_that_was_counted() -> None:
    same, other = measurement(3, 0.5, total_ns=4e8, verify_passes=2.0), measurement(4, 2)
    figures = measurement_figures([same, other, same])
    assert figures[0] == figures[2]
    assert figures[0] | {"text_fingerprint": ""} == {
        "text_fingerprint": "",
        "duration_ns": 500_000_000,
        "total_ns": 400_000_000,
        "verify_passes": 2,
    }
    assert figures[0]["text_fingerprint"] != figures[1]["text_fingerprint"]


def test_each_category_keeps_its_own_measurements() -> None:
    tasks = [BenchTask((1,), 0, "code"), BenchTask((2,), 1, "doctest"), BenchTask((3,), 2, "code")]
    measured = {"off": [measurement(1, 1), measurement(2, 1), measurement(3, 1)]}
    categories = by_category(measured, tasks)
    assert [len(each.token_ids) for each in categories["code"]["off"]] == [1, 3]
    assert [len(each.token_ids) for each in categories["doctest"]["off"]] == [2]


def test_a_difference_names_its_place_and_its_margin() -> None:
    tasks = [BenchTask((1,), 0), BenchTask((2,), 1), BenchTask((3,), 2)]
    off = [Measurement((7, 8, 9), 1), Measurement((7, 8, 9), 1), Measurement((7, 8, 9), 1)]
    auto = [Measurement((7, 8, 9), 1), Measurement((7, 5, 9), 1), Measurement((7, 8), 1)]
    asked = []

    def margin(task: BenchTask, generated: tuple[int, ...], token_id: int, other_token_id: int) -> float:
        asked.append((task, generated, token_id, other_token_id))
        return 0.25

    found = find_differences({"off": off, "auto": auto}, "off", ["auto"], tasks, margin)
    assert [(each.task, each.index, each.margin) for each in found] == [(1, 1, 0.25), (2, 2, None)]
    assert asked == [(tasks[1], (7,), 5, 8)]


def test_a_rounds_rest_is_what_neither_model_worked() -> None:
    # 5 passes: the first is the prompt's; 4 rounds of 10 ms, of which passes take 4 and drafts 3.
    counts = {
        "verify_passes": 5.0,
        "total_ns": 90e6,
        "time_to_first_token_ns": 50e6,
        "verify_ns": 20e6,
        "draft_ns": 15e6,
    }
    figures = round_figures([measurement(8, 1, **counts), measurement(8, 1, **counts)])
    assert figures == pytest.approx({"mean_ns": 10e6, "verify_ns": 4e6, "without_models_ns": 3e6})
    assert round_figures([measurement(8, 1)]) is None
