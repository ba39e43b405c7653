"""`sybil quality` on the embedded pair: figures, a plot, and an exact judge that loses nothing."""

import json
from pathlib import Path

import pytest

from sybil_cli.__main__ import main


def test_a_run_measures_every_judge_and_draws_the_frontier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, report = tmp_path / "quality.json", tmp_path / "report"
    flags = ["--count", "1", "--max-tokens", "16", "--temperatures", "0,0.7", "--judges", "ratio-test,top-k:50"]
    assert main(["quality", *flags, "--json", str(file), "--report", str(report)]) == 0
    runs = json.loads(file.read_text())["runs"]
    assert [run["temperature"] for run in runs] == [0, 0.7]
    for run in runs:
        exact, ratio, lossy = run["judges"]
        assert (exact["judge"], ratio["judge"], lossy["judge"]) == ("shared-noise", "ratio-test", "top-k:50")
        assert (exact["agreement"], exact["divergence"], exact["speed_ratio"]) == (1, 0, 1)
        assert (exact["lossy"], ratio["lossy"], lossy["lossy"]) == (False, False, True)
        assert lossy["tokens_per_pass"] >= exact["tokens_per_pass"]
        assert lossy["log_likelihood"] < 0
    assert runs[1]["judges"][2]["divergence"] > 0
    assert runs[1]["judges"][2]["tokens_per_pass"] > runs[1]["judges"][0]["tokens_per_pass"]
    assert (report / "frontier.png").stat().st_size > 10_000
    assert "Speed against quality" in (report / "index.html").read_text()
    assert "The exact judge lost nothing" in capsys.readouterr().out


def test_a_wrong_judge_is_refused_before_anything_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", "--judges", "top-k:0.5"]) == 2
    assert "each perhaps with its parameter as in top-k:3" in capsys.readouterr().err
