"""What a run says in a terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.figures import Measured, arm_figures
from benchmarks.measurement import speed_ratio


def table(title: str, measured: Measured, against: Sequence[str]) -> Table:
    """One row an arm: speed, ratios to the arms in `against`, rates."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("arm")
    columns = [
        "tokens/s",
        *(f"x {name}" for name in against),
        "acceptance",
        "tokens/pass",
        "verifier idle",
        "gap p50",
        "overlap",
    ]
    for column in columns:
        shown.add_column(column, justify="right")
    for name, measurements in measured.items():
        figures = arm_figures(measurements)
        cells = [f"{figures['tokens_per_second']['median']:.1f}"]
        for other in against:
            ratio = speed_ratio(measurements, measured[other])
            cells.append("" if other == name else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
        cells += [
            _cell(figures["acceptance_rate"], ".2f"),
            _cell(figures["tokens_per_pass"], ".2f"),
            _cell(figures["verifier_idle"], ".1%"),
            _milliseconds(figures["gap_between_passes_ns"]),
            _cell(figures["overlap"], ".2f"),
        ]
        shown.add_row(name, *cells)
    return shown


def category_table(title: str, categories: Mapping[str, Measured], against: str) -> Table:
    """One row an arm, one column a category: tokens per second, and the ratio to one arm."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("arm")
    for category, measured in categories.items():
        shown.add_column(f"{category} ({len(measured[against])})", justify="right")
    for name in next(iter(categories.values())):
        cells = []
        for measured in categories.values():
            speed = arm_figures(measured[name])["tokens_per_second"]["median"]
            cells.append(f"{speed:.1f} ({speed_ratio(measured[name], measured[against]).median:.2f}x)")
        shown.add_row(name, *cells)
    return shown


def _cell(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _milliseconds(value_ns: float | None) -> str:
    return "" if value_ns is None else f"{value_ns / 1e6:.2f} ms"
