"""What a run says: tables for people, JSON for programs."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from os import cpu_count
from typing import Any

from rich.table import Table

from benchmarks.measurement import Interval, Measurement, median_interval, speed_ratio


def arm_figures(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Speed and rates of one arm; rates are those of all its completions together."""
    totals: dict[str, float] = {}
    for measurement in measurements:
        for name, count in measurement.counts.items():
            totals[name] = totals.get(name, 0) + count

    def rate(numerator: str, denominator: str) -> float | None:
        return totals[numerator] / totals[denominator] if totals.get(denominator) else None

    def middle(name: str) -> float | None:
        values = [measurement.counts[name] for measurement in measurements if name in measurement.counts]
        return median_interval(values).median if values else None

    return {
        "tokens_per_second": asdict(median_interval([each.tokens_per_second for each in measurements])),
        "acceptance_rate": rate("accepted_tokens", "tested_tokens"),
        "draft_efficiency": rate("accepted_tokens", "drafted_tokens"),
        "tokens_per_pass": rate("completion_tokens", "verify_passes"),
        "overlap": rate("overlap_ns", "verify_ns"),
        "gap_between_passes_ns": middle("gap_p50_ns"),
        "relay_ns": middle("relay_p50_ns"),
        "time_to_first_token_ns": middle("time_to_first_token_ns"),
    }


def ratios(measured: Mapping[str, Sequence[Measurement]]) -> dict[str, Interval]:
    """How fast every arm is against every other, as "A/B"."""
    return {
        f"{one}/{other}": speed_ratio(measured[one], measured[other])
        for one in measured
        for other in measured
        if one != other
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = ("torch", "transformers", "grpcio", "ray")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def table(temperature: float, measured: Mapping[str, Sequence[Measurement]], against: Sequence[str]) -> Table:
    """One row an arm: speed, ratios to the arms in `against`, rates."""
    shown = Table(title=f"temperature {temperature:g}, medians with 95 % intervals")
    shown.add_column("arm")
    columns = [
        "tokens/s",
        *(f"x {name}" for name in against),
        "acceptance",
        "tokens/pass",
        "overlap",
        "gap p50",
        "relay p50",
    ]
    for column in columns:
        shown.add_column(column, justify="right")
    for name, measurements in measured.items():
        figures = arm_figures(measurements)
        speed = figures["tokens_per_second"]
        cells = [f"{speed['median']:.1f}"]
        for other in against:
            ratio = speed_ratio(measurements, measured[other])
            cells.append("" if other == name else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
        cells += [_cell(figures[key], ".2f") for key in ("acceptance_rate", "tokens_per_pass", "overlap")]
        cells += [_milliseconds(figures[key]) for key in ("gap_between_passes_ns", "relay_ns")]
        shown.add_row(name, *cells)
    return shown


def _cell(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _milliseconds(value_ns: float | None) -> str:
    return "" if value_ns is None else f"{value_ns / 1e6:.2f} ms"
