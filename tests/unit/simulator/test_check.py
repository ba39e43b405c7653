"""`sybil simulate --against`: times of the simulator's own agree with it, and what is not the same is refused."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest

from simulator.experience import Experience
from simulator.players.sybil import Simulation, Sybil
from simulator.point import Point
from simulator.storage import Recording, save
from simulator.trace import Trace
from sybil_cli.__main__ import main
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.types import Speculation
from tests.unit.simulator.synthetic import synthetic_trace

POINT = Point(30, 3, 1)
TOKENS = 48
ABOUT = {"target": "big, 2,000 parameters", "draft": "small, 10 parameters", "max_tokens": TOKENS}
RANK_CHANCES = [0.75, 0.12, 0.05]


@cache
def recorded(temperatures: Sequence[float] = (0.0,), prompts: int = 3, tokens: int = TOKENS) -> list[Trace]:
    return [
        replace(synthetic_trace(tokens, RANK_CHANCES, seed), temperature=temperature)
        for temperature in temperatures
        for seed in range(prompts)
    ]


def arms(windows: Sequence[int], experience: Experience) -> dict[str, Sybil]:
    return {
        "off": Sybil(Speculation.OFF, 0, 8, experience),
        **{f"lockstep-{window}": Sybil(Speculation.LOCKSTEP, window, 8, experience) for window in windows},
        "pipelined": Sybil(Speculation.PIPELINED, 0, 8, experience),
        "hedged": Sybil(Speculation.HEDGED, 0, 8, experience),
        "auto": Sybil(Speculation.AUTO, 0, 8, experience),
    }


def measurement(player: Sybil, trace: Trace, point: Point) -> dict[str, Any]:
    """What the benchmark would write if the engine were the simulator, after a prompt that takes 100 ms."""
    simulation = Simulation(player, trace, point)
    commits = simulation.commits
    starts_ns = [end_ns - commit.timings.forward_ns for end_ns, commit in commits]
    pushed_ns = [arrived_ns for arrived_ns, _ in simulation.blocks]
    gaps_ns = [start_ns - end_ns for (end_ns, _), start_ns in zip(commits, starts_ns[1:], strict=False)]
    return {
        "text_fingerprint": f"{Ledger(map(int, trace.target_ids), 0).fingerprint(len(trace)):016x}",
        "completion_tokens": len(trace),
        "first_tokens": len(commits[0][1].tokens),
        "verify_passes": len(commits),
        "time_to_first_token_ns": 10**8 + commits[0][0],
        "total_ns": 10**8 + commits[-1][0],
        "verify_ns": sum(commit.timings.forward_ns for _, commit in commits),
        "gap_p50_ns": median_low(gaps_ns or [0]),
        "push_p50_ns": median_low([late - early for early, late in pairwise(pushed_ns)] or [0]),
    }


def benchmark(
    traces: Sequence[Trace], *, asked: Point = POINT, met: Point | None = None, windows: Sequence[int] = (5, 8)
) -> dict[str, Any]:
    """A benchmark's file, written by the simulator.

    Args:
        asked: the times that the file names.
        met: the times that its passes took; left out: the same.
    """
    document: dict[str, Any] = json.loads(benchmark_text(tuple(traces), asked, met or asked, tuple(windows)))
    return document


@cache
def benchmark_text(traces: tuple[Trace, ...], asked: Point, met: Point, windows: tuple[int, ...]) -> str:
    temperatures = list(dict.fromkeys(trace.temperature for trace in traces))
    players = arms(windows, Experience())
    names = list(players)
    runs = []
    for temperature in temperatures:
        own = [trace for trace in traces if trace.temperature == temperature]
        measurements: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for player in players.values():
            player.play(own[0], met)
        for number, trace in enumerate(own):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                measurements[name].append(measurement(players[name], trace, met))
        runs.append({"temperature": temperature, "measurements": measurements})
    document = {
        "environment": {
            "name": "emulated",
            "emulated": True,
            "verify_ms": asked.verify_ms,
            "draft_ms": asked.draft_ms,
            "rtt_ms": asked.rtt_ms,
            "row_ms": asked.row_ms,
        },
        "pair": {"target": {"model": "big", "parameters": 2000}, "draft": {"model": "small", "parameters": 10}},
        "settings": {"max_tokens": TOKENS, "window": 0, "prompts": "", "repeat": 1, "verifier_arguments": []},
        "limits": {"max_window_tokens": 8},
        "tasks": [{"prompt_id": trace.prompt_id, "seed": trace.seed} for trace in own],
        "runs": runs,
    }
    return json.dumps(document)


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
    traces = recorded(temperatures=(0.0, 0.8), prompts=2)
    files.write(traces, benchmark(traces, asked=point, windows=windows))
    assert files.compare() == 0
    names = {"off", *(f"lockstep-{each}" for each in windows), "pipelined", "hedged", "auto"}
    for check in range(2):
        assert set(files.arms(check)) == names
        for arm in files.arms(check).values():
            assert arm["difference"] == pytest.approx(0, abs=1e-3)
            assert arm["point"] == pytest.approx(asdict(point))
    printed = capsys.readouterr().out.splitlines()
    count = 2 * len(names)
    assert printed[-1] == f"Within 10% of what was measured: {count} of {count}."
    assert not any("NO" in line for line in printed)


def test_devices_that_take_longer_than_asked_agree_at_the_times_that_they_took(files: Files) -> None:
    traces = recorded(prompts=2)
    met = Point(36, 5, 4)
    files.write(traces, benchmark(traces, met=met))
    assert files.compare() == 0
    for arm in files.arms().values():
        assert arm["difference"] == pytest.approx(0, abs=1e-3)
        assert arm["point"] == pytest.approx(asdict(met))


def test_an_arm_that_is_slower_than_its_passes_explain_does_not_agree(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = recorded(prompts=2)
    document = benchmark(traces)
    for each in document["runs"][0]["measurements"]["hedged"]:
        each["total_ns"] += 10**9
    files.write(traces, document)
    assert files.compare() == 0
    assert not files.arms()["hedged"]["agrees"]
    assert files.arms()["pipelined"]["agrees"]
    assert "Within 10% of what was measured: 5 of 6." in capsys.readouterr().out


def test_prompts_and_first_passes_change_nothing(files: Files) -> None:
    traces = recorded(prompts=2)
    document = benchmark(traces)
    for completions in document["runs"][0]["measurements"].values():
        for each in completions:
            each["total_ns"] += 10**9
            each["time_to_first_token_ns"] += 10**9
    files.write(traces, document)
    assert files.compare() == 0
    assert all(arm["difference"] == pytest.approx(0, abs=1e-3) for arm in files.arms().values())


def test_an_arm_that_nobody_simulates_is_left_out(files: Files) -> None:
    traces = recorded(prompts=1)
    document = benchmark(traces)
    measurements = document["runs"][0]["measurements"]
    measurements["transformers"] = measurements["off"]
    files.write(traces, document)
    assert files.compare() == 0
    assert "transformers" not in files.arms()


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
    assert all(arm["difference"] == pytest.approx(0, abs=0.05) for arm in check["arms"].values())
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
        (
            ("tasks", 1, "prompt_id"),
            "other",
            "prompt 2 and its seed is ('synthetic-1', 1) in the first, ('other', 1) in the",
        ),
        (("tasks", 2, "seed"), 7, "prompt 3 and its seed is ('synthetic-2', 2) in the first, ('synthetic-2', 7) in"),
        (("settings", "max_tokens"), 64, "--max-tokens is 48 in the first, 64 in the second"),
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
    assert f"record the same models with `sybil simulate record {command}`" in sentence


def test_prompts_that_are_missing_are_named(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.write(recorded(prompts=2), benchmark(recorded(prompts=3)))
    assert "the number of prompts at temperature 0 is 2 in the first, 3 in the second" in refused(files, capsys)


@pytest.mark.parametrize(
    ("setting", "value", "differs"),
    [
        ("repeat", 2, "--repeat is 1 in the first, 2 in the second"),
        ("prompts", "own.jsonl", "--prompts is unset in the first, own.jsonl in the second"),
        ("numerics", "fast", "--numerics is exact in the first, fast in the second"),
        ("verifier_arguments", ["--threads", "1"], "--verifier-arguments is unset in the first, ['--threads', '1'] in"),
    ],
)
def test_settings_that_no_recording_has_are_refused(
    setting: str, value: object, differs: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    document = benchmark(recorded())
    document["settings"][setting] = value
    files.write(recorded(), document)
    assert differs in refused(files, capsys)


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
        ("{", "is not a benchmark file that can be used"),
        ("[1, 2]", "is not a benchmark file that can be used"),
        ("{}", "environment.emulated: Field required"),
        (json.dumps(without(benchmark(recorded()), "tasks")), "tasks: Field required"),
        (
            json.dumps(without(benchmark(recorded()), "limits", "max_window_tokens")),
            "limits.max_window_tokens: Field required",
        ),
        (json.dumps(without(benchmark(recorded()), "runs", 0, "measurements")), "runs.0.measurements: Field required"),
        (json.dumps(without(benchmark(recorded()), *FIRST, "verify_ns")), "hedged.0.verify_ns: Field required"),
        (json.dumps(without(benchmark(recorded()), "settings", "max_tokens")), "settings.max_tokens: Field required"),
        (
            json.dumps(benchmark(recorded())).replace('"window": 0', '"window": "x"'),
            "settings.window: Input should be a valid integer",
        ),
        (
            json.dumps(benchmark(recorded())).replace('"gap_p50_ns": 0', '"gap_p50_ns": true'),
            "gap_p50_ns: Input should be a valid integer",
        ),
        (json.dumps(without(benchmark(recorded()), *FIRST)), "hedged has 2 completions of 3 prompts"),
        (
            json.dumps(benchmark(recorded())).replace('"gap_p50_ns": 0', '"gap_p50_ns": NaN'),
            "gap_p50_ns: Input should be a valid integer",
        ),
        (json.dumps(benchmark(recorded()) | {"runs": []}), "runs: List should have at least 1 item"),
        (
            json.dumps({"environment": {"name": "native", "emulated": False}}),
            "environment.emulated: Input should be True",
        ),
        (json.dumps(benchmark(recorded(), windows=())).replace('"off"', '"of"'), "holds no arm off"),
        (json.dumps(benchmark(recorded())).replace('fingerprint": "', 'fingerprint": "1'), "no text in "),
    ],
    ids=range(16),
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


@pytest.mark.parametrize("flag", ["--point=30,3,1", "--row-ms=0", "--max-window=8"])
def test_what_the_benchmark_says_is_not_chosen_as_well(
    flag: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write(recorded(), benchmark(recorded()))
    assert f"{flag.partition('=')[0]} cannot be chosen with --against" in refused(files, capsys, flag)
