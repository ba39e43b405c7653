"""`sybil simulate --against`: times of the simulator's own agree with it, and what is not the same is refused."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from simulator.calibration import Calibration
from simulator.launch import LongRun
from simulator.players.lockstep import Lockstep, Plain
from simulator.players.player import Player
from simulator.players.pushed import Pushed
from simulator.point import Point
from simulator.rows import BranchRows, TrunkRows
from simulator.storage import Recording, save
from simulator.synthetic import synthetic_trace
from simulator.trace import Trace
from sybil_cli.__main__ import main
from sybil_engine.core.ledger import Ledger

POINT = Point(30, 3, 1)
TOKENS = 96
ABOUT = {"target": "big, 2,000 parameters", "draft": "small, 10 parameters", "max_tokens": TOKENS}
RANK_CHANCES = [0.75, 0.12, 0.05]


def recorded(temperatures: Sequence[float] = (0.0,), prompts: int = 3, tokens: int = TOKENS) -> list[Trace]:
    return [
        replace(synthetic_trace(tokens, RANK_CHANCES, seed), temperature=temperature)
        for temperature in temperatures
        for seed in range(prompts)
    ]


def arms(traces: Sequence[Trace], windows: Sequence[int]) -> dict[str, Player]:
    calibration = Calibration.of(traces)
    return {
        "off": Plain(),
        **{f"lockstep-{window}": Lockstep(window) for window in windows},
        "pipelined": Pushed(calibration, LongRun(8), TrunkRows(8), 1, 16),
        "hedged": Pushed(calibration, LongRun(8), BranchRows(8, 3), 8, 16),
    }


def measurement(player: Player, trace: Trace, point: Point) -> dict[str, Any]:
    """What the benchmark would write if the engine were the simulator, behind a prompt that takes 100 ms."""
    outcome = player.play(trace, point)
    window_tokens = player.window_tokens if isinstance(player, Lockstep) else 0
    drafted_tokens = window_tokens * outcome.passes
    return {
        "text_fingerprint": f"{Ledger(map(int, trace.target_ids), 0).fingerprint(len(trace)):016x}",
        "completion_tokens": outcome.tokens,
        "first_tokens": outcome.first_tokens,
        "verify_passes": outcome.passes,
        "drafted_tokens": drafted_tokens,
        "time_to_first_token_ns": round(1e6 * (100 + outcome.first_ms)),
        "total_ns": round(1e6 * (100 + outcome.duration_ms)),
        "verify_ns": round(1e6 * (outcome.duration_ms - outcome.idle_ms)),
        "draft_ns": round(1e6 * drafted_tokens * point.draft_ms),
        "gap_p50_ns": round(1e6 * (window_tokens * point.draft_ms + point.round_trip_ms)) if window_tokens else 0,
    }


def benchmark(
    traces: Sequence[Trace], *, asked: Point = POINT, met: Point | None = None, windows: Sequence[int] = (5, 8)
) -> dict[str, Any]:
    """A benchmark's file, written by the simulator.

    Args:
        asked: the times that the file names.
        met: the times that its passes took; left out: the same.
    """
    temperatures = list(dict.fromkeys(trace.temperature for trace in traces))
    runs = []
    for temperature in temperatures:
        own = [trace for trace in traces if trace.temperature == temperature]
        players = arms(own, windows)
        measurements = {
            name: [measurement(player, trace, met or asked) for trace in own] for name, player in players.items()
        }
        runs.append({"temperature": temperature, "measurements": measurements})
    return {
        "environment": {
            "name": "emulated",
            "emulated": True,
            "verify_ms": asked.verify_ms,
            "draft_ms": asked.draft_ms,
            "rtt_ms": asked.round_trip_ms,
            "row_ms": asked.row_ms,
        },
        "pair": {"target": {"model": "big", "parameters": 2000}, "draft": {"model": "small", "parameters": 10}},
        "settings": {"max_tokens": TOKENS, "window": 0, "prompts": "", "repeat": 1, "verifier_arguments": []},
        "limits": {"max_window_tokens": 8, "draft_rows": 8, "branches": 3},
        "tasks": [{"prompt_id": trace.prompt_id, "seed": trace.seed} for trace in own],
        "runs": runs,
    }


class Files:
    """A trace file and a benchmark's file, and the command that compares them."""

    def __init__(self, folder: Path) -> None:
        self.traces, self.bench, self.out = folder / "traces.npz", folder / "bench.json", folder / "out.json"

    def write(self, traces: Sequence[Trace], document: object) -> None:
        save(Recording(traces, ABOUT), self.traces)
        self.bench.write_text(json.dumps(document))

    def compare(self, *further: str) -> int:
        return main(
            ["simulate", "--traces", str(self.traces), "--against", str(self.bench), "--json", str(self.out), *further]
        )

    def arms(self, check: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.read_text())["checks"][check]["arms"]
        return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("point", [POINT, Point(30, 1.5, 15), Point(30, 3, 1, row_ms=0.4)], ids=str)
@pytest.mark.parametrize("windows", [(5, 8), (5,)], ids=str)
def test_times_of_the_simulators_own_agree_with_it(
    point: Point, windows: Sequence[int], files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = recorded(temperatures=(0.0, 0.8))
    files.write(traces, benchmark(traces, asked=point, windows=windows))
    assert files.compare() == 0
    for check in range(2):
        assert set(files.arms(check)) == {"off", *(f"lockstep-{each}" for each in windows), "pipelined", "hedged"}
        for arm in files.arms(check).values():
            for times in ("nominal", "in_place"):
                assert arm[times]["difference"] == pytest.approx(0, abs=1e-6)
                assert arm[times]["point"] == pytest.approx(asdict(point))
    printed = capsys.readouterr().out.splitlines()
    count = 2 * (3 + len(windows))
    assert printed[-1] == (
        f"Within 10% of what was measured: {count} of {count} at the nominal times, {count} at those measured in place."
    )
    assert not any("%*" in line for line in printed)


def test_devices_that_take_longer_than_asked_agree_at_their_own_times_alone(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = recorded()
    met = Point(36, 5, 4)
    files.write(traces, benchmark(traces, met=met))
    assert files.compare() == 0
    for arm in files.arms().values():
        assert arm["in_place"]["difference"] == pytest.approx(0, abs=1e-6)
        assert arm["in_place"]["point"] == pytest.approx(asdict(met))
        assert arm["nominal"]["point"] == pytest.approx(asdict(POINT))
    off, lockstep = files.arms()["off"], files.arms()["lockstep-8"]
    assert off["nominal"]["difference"] == pytest.approx(36 / 30 - 1)
    # A round of it takes 55 of 30 ms, not 80 of 36.
    assert lockstep["nominal"]["difference"] == pytest.approx((80 / 36) / (55 / 30) - 1)
    assert not lockstep["nominal"]["agrees"]
    assert "+21.2%*" in capsys.readouterr().out


def test_prompts_and_first_passes_change_nothing(files: Files) -> None:
    traces = recorded()
    document = benchmark(traces)
    for completions in document["runs"][0]["measurements"].values():
        for each in completions:
            each["total_ns"] += 10**9
            each["time_to_first_token_ns"] += 10**9
    files.write(traces, document)
    assert files.compare() == 0
    assert all(arm["nominal"]["difference"] == pytest.approx(0, abs=1e-6) for arm in files.arms().values())


def test_an_arm_that_nobody_simulates_is_left_out(files: Files) -> None:
    traces = recorded()
    document = benchmark(traces)
    measurements = document["runs"][0]["measurements"]
    measurements["auto"] = measurements["hedged"]
    files.write(traces, document)
    assert files.compare() == 0
    assert "auto" not in files.arms()


def test_a_text_that_is_not_the_recorded_one_is_left_out_and_counted(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = recorded()
    document = benchmark(traces)
    measurements = document["runs"][0]["measurements"]
    # Nothing else about it counts either.
    measurements["pipelined"][1] |= {"text_fingerprint": "00", "total_ns": 10**12}
    files.write(traces, document)
    assert files.compare() == 0
    check = json.loads(files.out.read_text())["checks"][0]
    assert (check["compared"], check["left_out"]) == (2, 1)
    assert all(arm["nominal"]["difference"] == pytest.approx(0, abs=1e-6) for arm in check["arms"].values())
    assert "temperature 0: 1 of 3 completions are left out" in capsys.readouterr().out


def refused(files: Files, capsys: pytest.CaptureFixture[str], *further: str) -> str:
    """The sentence with which a comparison is refused."""
    assert files.compare(*further) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sybil: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("path", "value", "differs"),
    [
        (("tasks", 1, "prompt_id"), "other", "prompt 2 at temperature 0 is synthetic-1 in the first, other in the"),
        (("tasks", 2, "seed"), 7, "the seed of prompt 3 at temperature 0 is 2 in the first, 7 in the second"),
        (("settings", "max_tokens"), 64, "--max-tokens is 96 in the first, 64 in the second"),
        (("pair", "target", "model"), "huge", "the target is big, 2,000 parameters in the first, huge, 2,000"),
        (("pair", "draft", "parameters"), 11, "the draft model is small, 10 parameters in the first, small, 11"),
        (("pair", "draft"), None, "the draft model is small, 10 parameters in the first, none"),
        (("runs", 0, "temperature"), 0.5, "the number of prompts at temperature 0.5 is 0 in the first, 3 in the"),
    ],
    ids=lambda value: "/".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_is_not_the_same_is_named_with_the_command_that_makes_it_right(
    path: Sequence[Any], value: object, differs: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = recorded()
    document = benchmark(traces)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    files.write(traces, document)
    sentence = refused(files, capsys)
    assert differs in sentence
    max_tokens, temperature = document["settings"]["max_tokens"], document["runs"][0]["temperature"]
    command = f"--count 3 --max-tokens {max_tokens} --temperature {temperature:g} --seed 0 --out {files.traces}"
    assert f"record again with `sybil simulate record {command}`" in sentence


def test_prompts_that_are_missing_are_named(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.write(recorded(prompts=2), benchmark(recorded(prompts=3)))
    assert "the number of prompts at temperature 0 is 2 in the first, 3 in the second" in refused(files, capsys)


def test_other_models_stand_in_the_command_that_records_them(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    document = benchmark(recorded())
    document["settings"] |= {"target": "a/big one", "draft": "a/small", "max_tokens": 97}
    files.write(recorded(), document)
    assert "--target 'a/big one' --draft a/small --out" in refused(files, capsys)


@pytest.mark.parametrize(
    ("setting", "value", "flag"),
    [
        ("repeat", 2, "--repeat 2"),
        ("prompts", "own.jsonl", "--prompts own.jsonl"),
        ("numerics", "fast", "--numerics fast"),
        ("verifier_arguments", ["--max-window-tokens", "15"], "--verifier-arguments --max-window-tokens,15"),
    ],
)
def test_what_no_recording_repeats_is_refused(
    setting: str, value: object, flag: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    document = benchmark(recorded())
    document["settings"][setting] = value
    files.write(recorded(), document)
    assert f"was measured with {flag}, which is not simulated; measure without it" in refused(files, capsys)


def test_a_temperature_that_was_not_measured_is_refused(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    traces = recorded(temperatures=(0.0, 0.8))
    files.write(traces, benchmark(traces[:3]))
    assert "holds nothing at temperature 0.8, only at 0" in refused(files, capsys, "--temperature", "0.8")
    assert files.compare("--temperature", "0") == 0


def without(document: dict[str, Any], *path: Any) -> dict[str, Any]:
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return document


FIRST = ("runs", 0, "measurements", "hedged", 0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not a benchmark's file that can be compared with"),
        ("[1, 2]", "is not a benchmark's file that can be compared with"),
        ("{}", "it lacks environment"),
        (json.dumps(without(benchmark(recorded()), "tasks")), "it lacks tasks"),
        (json.dumps(without(benchmark(recorded()), "limits", "branches")), "it lacks branches"),
        (json.dumps(without(benchmark(recorded()), "runs", 0, "measurements")), "it lacks measurements"),
        (json.dumps(without(benchmark(recorded()), *FIRST, "draft_ns")), "it lacks draft_ns"),
        (json.dumps(without(benchmark(recorded()), "settings", "max_tokens")), "it lacks max_tokens"),
        (json.dumps(benchmark(recorded())).replace('"window": 0', '"window": "x"'), "'x' stands where"),
        (
            json.dumps(benchmark(recorded())).replace('"drafted_tokens": 0', '"drafted_tokens": true'),
            "True stands where",
        ),
        (json.dumps(benchmark(recorded())).replace('"branches": 3', '"branches": 0'), "0 stands where a number above"),
        (json.dumps(without(benchmark(recorded()), *FIRST)), "hedged has 2 completions of 3 prompts"),
        (json.dumps(benchmark(recorded())).replace('"drafted_tokens": 0', '"drafted_tokens": NaN'), "nan stands where"),
        (json.dumps(benchmark(recorded()) | {"runs": []}), "it holds no completion"),
        (json.dumps({"environment": {"name": "native", "emulated": False}}), "in the environment native, where passes"),
        (json.dumps(benchmark(recorded(), windows=())).replace('"off"', '"of"'), "holds no arm off"),
        (json.dumps(benchmark(recorded())).replace('fingerprint": "', 'fingerprint": "1'), "no text in "),
    ],
    ids=range(17),
)
def test_a_file_that_is_no_emulated_benchmark_is_refused(
    content: str, sentence: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write(recorded(), {})
    files.bench.write_text(content)
    refusal = refused(files, capsys)
    assert sentence in refusal
    assert "sybil bench --env emulated" in refusal


def test_a_file_that_is_missing_is_refused(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.write(recorded(), {})
    files.bench.unlink()
    assert f"no benchmark file {files.bench}" in refused(files, capsys)


@pytest.mark.parametrize("tokens", [1, 2])
def test_texts_that_end_with_a_first_pass_are_refused(
    tokens: int, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = [synthetic_trace(tokens, [1.0])]
    files.write(traces, benchmark(traces))
    assert "so short that an arm is done after its first pass" in refused(files, capsys)


@pytest.mark.parametrize("flag", ["--point=30,3,1", "--row-ms=0", "--draft-rows=8", "--max-window=8", "--branches=3"])
def test_what_the_benchmark_says_is_not_chosen_as_well(
    flag: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write(recorded(), benchmark(recorded()))
    assert f"{flag.partition('=')[0]} cannot be chosen with --against" in refused(files, capsys, flag)
