"""`sybil simulate` as its user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.storage import Recording, save
from sybil_cli.__main__ import main
from tests.unit.simulator.synthetic import synthetic_trace


@pytest.fixture
def traces(tmp_path: Path) -> str:
    file = tmp_path / "traces.npz"
    save(Recording([synthetic_trace(60, [0.7, 0.15, 0.05], seed) for seed in range(2)]), file)
    return str(file)


def test_every_player_is_reported_at_every_point(
    traces: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    points = ["--point", "30,3,1", "--point", "12,1,0.2"]
    assert main(["simulate", "--traces", traces, *points, "--max-window", "6", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert [match["point"]["verify_ms"] for match in figures["matches"]] == [30, 12]
    for match in figures["matches"]:
        players = match["players"]
        assert {"PEARL", "AMUSD", "SSD, uniform", "SSD, geometric", "DSI"} <= set(players)
        assert {"off", "lockstep", "pipelined", "hedged", "auto"} <= set(players)
        assert players["off"]["ratio_to_off"] == pytest.approx(1)
        locksteps = [players[name]["ratio_to_best_lockstep"] for name in ("lockstep", "lockstep, ratio test")]
        assert max(locksteps) == pytest.approx(1)
        assert all(name in printed for name in players)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no traces to play"),
        (["--traces", "/nowhere/traces.npz"], "no trace file /nowhere/traces.npz"),
        (["--traces", "TRACES", "--point", "30,-3,1"], "draft is -3 ms; it must be"),
        (["--traces", "TRACES", "--point", "0,3,1"], "verify is 0 ms"),
        (["--traces", "TRACES", "--point", "30,3,nan"], "round trip is nan ms"),
        (["--traces", "TRACES", "--point", "30,3"], "'30,3' is not a point"),
        (["--traces", "TRACES", "--row-ms", "-1"], "row is -1 ms"),
        (["--traces", "TRACES", "--temperature", "1"], "holds no traces at temperature 1, only at 0"),
        (["--traces", "TRACES", "--temperature", "warm"], "'warm' is not a temperature"),
        (["--traces", "TRACES", "--replicas", "0"], "Invalid value for '--replicas'"),
        (["--traces", "TRACES", "--json", "/nowhere/figures.json"], "/nowhere/figures.json cannot be written"),
        (["record", "--out", "/nowhere/traces.npz"], "/nowhere/traces.npz cannot be written"),
        (["record", "--out", "/tmp"], "--out /tmp cannot be written (Is a directory)"),
        (["record"], "Missing option '--out'"),
        (["recrod"], "No such command 'recrod'. Did you mean 'record'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, traces: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *(traces if each == "TRACES" else each for each in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sybil: ")
    assert captured.err.count("\n") == 1
    assert sentence in captured.err


def test_its_help_and_its_play_load_no_more_than_they_need(traces: str) -> None:
    play = ["simulate", "--traces", traces, "--point", "30,3,1", "--max-window", "2"]
    for arguments, unneeded in ((["simulate", "--help"], {"torch", "ray"}), (play, {"ray", "transformers"})):
        code = (
            "import sys; from sybil_cli.__main__ import main; "
            f"assert main({arguments!r}) == 0; "
            f"assert not {unneeded!r} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
