"""`sybil simulate` as its user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.storage import Recording, save
from simulator.synthetic import synthetic_trace
from sybil_cli.__main__ import main


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
    assert main(["simulate", "--traces", traces, *points, "--draft-rows", "4", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert [match["point"]["verify_ms"] for match in figures["matches"]] == [30, 12]
    for match in figures["matches"]:
        players = match["players"]
        assert {"plain", "PEARL", "AMUSD", "SSD, uniform", "SSD, geometric", "DSI", "pipelined"} <= set(players)
        assert {"hedged x4", "hedged x4 + branches", "hedged x4 + tree, long run"} <= set(players)
        assert players["plain"]["ratio_to_plain"] == pytest.approx(1)
        locksteps = [players[f"lockstep, {rule}"]["ratio_to_best_lockstep"] for rule in ("shared noise", "ratio test")]
        assert max(locksteps) == pytest.approx(1)
        for name, player in players.items():
            assert name in printed
            assert (player["limit_tokens_per_second"] is not None) == name.startswith(("pipelined", "hedged"))


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
        (["record", "--out", "/tmp"], "/tmp is a folder"),
        (["record"], "Missing option '--out'"),
        (["recrod"], "recrod is not a command of `sybil simulate`; the nearest one is record"),
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


def test_its_help_and_its_play_load_neither_torch_nor_ray(traces: str) -> None:
    for arguments in (["simulate", "--help"], ["simulate", "--traces", traces, "--point", "30,3,1"]):
        code = (
            "import sys; from sybil_cli.__main__ import main; "
            f"assert main({arguments!r}) == 0; "
            "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
