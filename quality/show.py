"""A quality run for people: a table for each temperature, and a plot of the frontier."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from reporting.drawing import figure_of
from reporting.page import ReportPage

_COLUMNS = {
    "tokens_per_second": ("tokens/s", ".1f"),
    "speed_ratio": ("x exact", ".2f"),
    "tokens_per_pass": ("tokens/pass", ".2f"),
    "agreement": ("agreement", ".3f"),
    "divergence": ("divergence, nats", ".4f"),
    "log_likelihood": ("log-likelihood", ".3f"),
    "distinct_1": ("distinct 1", ".3f"),
    "distinct_2": ("distinct 2", ".3f"),
    "distinct_3": ("distinct 3", ".3f"),
    "parses": ("parses", ".0%"),
}
_MARKERS = {"shared-noise": "*", "ratio-test": "D", "typical": "o", "top-k": "s", "threshold": "^"}


def table(run: Mapping[str, Any]) -> Table:
    """One row a judge."""
    shown = Table(title=f"temperature {run['temperature']:g}", title_justify="left")
    shown.add_column("judge")
    for heading, _ in _COLUMNS.values():
        shown.add_column(heading, justify="right")
    for judge in run["judges"]:
        name = judge["judge"] + (" (lossy)" if judge["lossy"] else "")
        shown.add_row(name, *(format(judge[key], spec) for key, (_, spec) in _COLUMNS.items()))
    return shown


def write_report(document: Mapping[str, Any], folder: Path) -> Path:
    """Write the plot as PNG, and a page with tables and plot; returns the page."""
    page = ReportPage("sybil quality", f"{document['target']}, drafted for by {document['draft']}", folder)
    page.add_tables([table(run) for run in document["runs"]])
    page.add_plot("Speed against quality", "frontier.png", _frontier(document["runs"]))
    page.add_values("Settings", document["settings"])
    return page.write()


def _frontier(runs: list[Mapping[str, Any]]) -> Figure:
    """Tokens a pass over the divergence; a panel for each temperature."""
    figure, panels = figure_of(len(runs), height=4.0)
    for axes, run in zip(panels, runs, strict=True):
        labels: dict[tuple[float, float], list[str]] = {}
        for judge in run["judges"]:
            place = judge["divergence"], judge["tokens_per_pass"]
            axes.scatter(*place, marker=_MARKERS[judge["rule"]], s=60)
            # Those at one place share a label.
            labels.setdefault((round(place[0], 3), round(place[1], 2)), []).append(judge["judge"])
        for place, names in labels.items():
            axes.annotate(chr(10).join(names), place, fontsize=7, xytext=(6, -3), textcoords="offset points", va="top")
        kind = "loss of log-probability" if run["temperature"] == 0 else "KL divergence from the target"
        axes.set(
            title=f"temperature {run['temperature']:g}",
            xlabel=f"{kind}, nats a drafted token",
            ylabel="tokens per verify pass",
        )
    return figure
