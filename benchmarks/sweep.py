"""The gamma study: how fast lockstep is with each window, at each temperature, on each category of prompts."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sybil_engine.core.types import Speculation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVERYTHING = "all"
"""The category that holds every prompt."""

Sweep = Mapping[str, Mapping[tuple[float, int], float]]
"""By category, the median ratio to `off` at each temperature and window."""


def sweep_of(document: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Sweep:
    """Gather a sweep from the figures of its runs, prompt by prompt.

    Args:
        document: holds the tasks, whose categories are needed.
        runs: one for each temperature.
    """
    categories = [task["category"] for task in document["tasks"]]
    ratios: dict[str, dict[tuple[float, int], list[float]]] = {EVERYTHING: {}}
    for run in runs:
        plain = run["measurements"][Speculation.OFF.value]
        for window, name in _windows(run["measurements"]):
            for category, one, other in zip(categories, run["measurements"][name], plain, strict=True):
                # Both say the same text.
                ratio = other["duration_ns"] / one["duration_ns"]
                for each in (EVERYTHING, category):
                    ratios.setdefault(each, {}).setdefault((run["temperature"], window), []).append(ratio)
    return {name: {place: median(each) for place, each in places.items()} for name, places in ratios.items()}


def sweep_figures(sweep: Sweep) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {"category": category, "temperature": temperature, "window_tokens": window, "ratio_to_off": ratio}
        for category, places in sweep.items()
        for (temperature, window), ratio in places.items()
    ]


def sweep_tables(sweep: Sweep) -> list[Table]:
    """One table a category: a row for each temperature, a column for each window."""
    return [_table(category, places) for category, places in sweep.items()]


def draw_sweep(sweep: Sweep) -> "Figure":
    """Heat maps, one a category: warm where drafting is faster than plain decoding."""
    # Only a report needs matplotlib.
    from matplotlib.colors import TwoSlopeNorm

    from reporting.drawing import figure_of

    figure, panels = figure_of(len(sweep), height=2.6)
    values = [ratio for places in sweep.values() for ratio in places.values()]
    norm = TwoSlopeNorm(1.0, min(0.95, *values), max(1.05, *values))
    for axes, (category, places) in zip(panels, sweep.items(), strict=True):
        temperatures, windows = _sides(places)
        cells = [[places[temperature, window] for window in windows] for temperature in temperatures]
        axes.imshow(cells, aspect="auto", cmap="RdYlGn", norm=norm)
        for row, line in enumerate(cells):
            for column, ratio in enumerate(line):
                axes.text(column, row, f"{ratio:.2f}", ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(windows)), [str(window) for window in windows])
        axes.set_yticks(range(len(temperatures)), [f"{temperature:g}" for temperature in temperatures])
        axes.set(title=f"{category}: speed over plain decoding", xlabel="window, tokens", ylabel="temperature")
    return figure


def _table(category: str, places: Mapping[tuple[float, int], float]) -> Table:
    temperatures, windows = _sides(places)
    shown = Table(title=f"{category}: lockstep's speed over plain decoding, by window", title_justify="left")
    shown.add_column("temperature")
    for window in windows:
        shown.add_column(str(window), justify="right")
    for temperature in temperatures:
        best = max(windows, key=lambda window: places[temperature, window])
        cells = (f"{places[temperature, window]:.2f}{'*' if window == best else ' '}" for window in windows)
        shown.add_row(f"{temperature:g}", *cells)
    return shown


def _sides(places: Mapping[tuple[float, int], float]) -> tuple[list[float], list[int]]:
    """The temperatures and windows."""
    return sorted({temperature for temperature, _ in places}), sorted({window for _, window in places})


def _windows(measurements: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The windows that were measured, with the names of their arms."""
    prefix = f"{Speculation.LOCKSTEP.value}-"
    return [
        (int(name.removeprefix(prefix).partition("@")[0]), name) for name in measurements if name.startswith(prefix)
    ]
