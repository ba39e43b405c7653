"""The gamma study: ratios by category, temperature and window, as a table and as heat maps."""

import pytest

from benchmarks.plan import Plan
from benchmarks.settings import BenchSettings
from benchmarks.sweep import EVERYTHING, draw_sweep, sweep_figures, sweep_of, sweep_tables
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.settings import parse

DOCUMENT = {"tasks": [{"category": "code"}, {"category": "doctest"}, {"category": "code"}]}


def durations(*each_ns: int) -> list[dict[str, int]]:
    return [{"duration_ns": each} for each in each_ns]


RUNS = [
    {
        "temperature": temperature,
        "measurements": {
            "off": durations(100, 100, 100),
            "lockstep-2@model": durations(50, 200, 25),
            "lockstep-10@model": durations(100, 100, 100),
            "auto": durations(1, 1, 1),
        },
    }
    for temperature in (0, 0.8)
]


def test_each_cell_is_the_median_ratio_of_its_prompts() -> None:
    sweep = sweep_of(DOCUMENT, RUNS)
    assert list(sweep) == [EVERYTHING, "code", "doctest"]
    assert sweep["code"] == {(0, 2): 3.0, (0, 10): 1.0, (0.8, 2): 3.0, (0.8, 10): 1.0}
    assert sweep["doctest"][0, 2] == 0.5
    assert sweep[EVERYTHING][0.8, 2] == 2.0
    assert len(sweep_figures(sweep)) == 12


def test_there_is_a_table_and_a_heat_map_for_each_category() -> None:
    sweep = sweep_of(DOCUMENT, RUNS)
    tables = sweep_tables(sweep)
    assert [len(table.columns) for table in tables] == [3, 3, 3]
    figure = draw_sweep(sweep)
    assert [axes.get_title() for axes in figure.axes] == [f"{name}: speed over plain decoding" for name in sweep]
    assert [text.get_text() for text in figure.axes[1].texts] == ["3.00", "1.00", "3.00", "1.00"]


def test_a_sweep_chooses_what_is_not_named() -> None:
    chosen = parse(BenchSettings, ["--sweep", "window,temperature", "--temperatures", "0,1"], {})
    plan = Plan.of(chosen)
    assert [kind.speculation.value + kind.suffix for kind in plan.kinds] == ["off", "lockstep@model"]
    assert len(chosen.lockstep_windows) > 6
    assert chosen.temperatures == (0, 1)
    assert plan.peers == ()
    with pytest.raises(InvalidSettings, match="window,temperature, or nothing"):
        parse(BenchSettings, ["--sweep", "window"], {})
