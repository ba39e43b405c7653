"""The report of a benchmark: a folder of plots, and one page that holds them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from benchmarks.anatomy import Anatomy
from benchmarks.sweep import Sweep, draw_sweep, sweep_tables


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """The figures of one temperature, the run's remarks on them, and the traces of its arms."""

    figures: Mapping[str, Any]
    summary: Sequence[RenderableType]
    anatomies: Mapping[str, Sequence[Anatomy]]


def write_report(
    document: Mapping[str, Any], runs: Sequence[ReportedRun], sweep: Sweep | None, label: str, folder: Path
) -> Path:
    """Write every plot as PNG, and index.html with all of them inside.

    Args:
        document: the content of the JSON file.
        sweep: if the run was one.
        label: of the environment; the title of every plot.

    Returns:
        The page.
    """
    # These import matplotlib, which only a report needs.
    from benchmarks.plots import draw_plots
    from reporting.page import ReportPage

    page = ReportPage("sybil bench", label, folder)
    if sweep:
        page.add_heading("Windows and temperatures")
        page.add_tables(sweep_tables(sweep))
        page.add_plot("Speed over plain decoding", "sweep.png", draw_sweep(sweep))
    for run in runs:
        temperature = f"{run.figures['temperature']:g}"
        page.add_heading(f"Temperature {temperature}")
        page.add_tables(run.summary)
        title = f"{label}, temperature {temperature}"
        for name, figure in draw_plots(run.figures["arms"], run.anatomies, title).items():
            page.add_plot(name.replace("-", " ").capitalize(), f"{name}-t{temperature}.png", figure)
    page.add_values("Settings", {key: document[key] for key in ("pair", "settings", "machine", "versions")})
    return page.write()
