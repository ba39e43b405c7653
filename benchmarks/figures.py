"""The figures of a run: what stands in its JSON; docs/benchmarks.md says how to read each."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.arms import lockstep_name
from benchmarks.measurement import Interval, Measurement, median_interval, median_speed, speed_ratio
from benchmarks.run import Task
from sybil_engine import __version__
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.types import Speculation

Measured = Mapping[str, Sequence[Measurement]]
"""By arm, one measurement a task, in order."""

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "grpcio", "protobuf", "ray")


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

    drafting = bool(totals.get("drafted_tokens"))
    return {
        "tokens_per_second": asdict(median_interval([each.tokens_per_second for each in measurements])),
        "acceptance_rate": rate("accepted_tokens", "tested_tokens"),
        "draft_efficiency": rate("accepted_tokens", "drafted_tokens"),
        "tokens_per_pass": rate("completion_tokens", "verify_passes"),
        "verifier_idle": verifier_idle(measurements),
        "verify_pass_ns": rate("verify_ns", "verify_passes"),
        "gap_between_passes_ns": middle("gap_p50_ns"),
        "overlap": rate("overlap_ns", "verify_ns") if drafting else None,
        "wasted_draft_tokens": totals["drafted_tokens"] - totals["tested_tokens"] if drafting else None,
        "relay_ns": middle("relay_p50_ns"),
        "time_to_first_token_ns": middle("time_to_first_token_ns"),
        "completion_tokens": sum(len(each.token_ids) for each in measurements),
        "completions": len(measurements),
    }


def measurement_figures(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Each completion of one arm by itself: its text's fingerprint, its time, and whatever else the arm counts."""
    return [
        {
            "text_fingerprint": f"{Ledger(each.token_ids, 0).fingerprint(len(each.token_ids)):016x}",
            "duration_ns": round(each.duration_s * 1e9),
            **{name: round(count) for name, count in each.counts.items()},
        }
        for each in measurements
    ]


def verifier_idle(measurements: Sequence[Measurement]) -> float | None:
    """The share of decode time in which no verify pass ran; None for an arm that does not tell.

    Decode time goes from the first token to the last one: the pass that yields the first is not part of it.
    """
    decode_ns = busy_ns = 0.0
    for counts in (each.counts for each in measurements):
        passes = counts.get("verify_passes", 0)
        if passes > 1:
            decode_ns += counts["total_ns"] - counts["time_to_first_token_ns"]
            busy_ns += counts["verify_ns"] * (passes - 1) / passes
    return max(0.0, 1 - busy_ns / decode_ns) if decode_ns > 0 else None


def ratios(measured: Measured) -> dict[str, Interval]:
    """How fast every arm is against every other, as "A/B"."""
    return {
        f"{one}/{other}": speed_ratio(measured[one], measured[other])
        for one in measured
        for other in measured
        if one != other
    }


def with_best_lockstep(
    measured: Measured, windows: Sequence[int]
) -> tuple[dict[str, Sequence[Measurement]], int | None]:
    """Put the fastest lockstep arm in the place of all of them.

    Returns:
        The measurements, and the window of the fastest; None without lockstep.
    """
    names = {lockstep_name(window): window for window in windows}
    tried = {name: measured[name] for name in names if name in measured}
    if not tried:
        return dict(measured), None
    best = max(tried, key=lambda name: median_speed(tried[name]))
    kept: dict[str, Sequence[Measurement]] = {}
    for name, measurements in measured.items():
        if name not in tried:
            kept[name] = measurements
        elif Speculation.LOCKSTEP.value not in kept:
            kept[Speculation.LOCKSTEP.value] = tried[best]
    return kept, names[best]


def by_category(measured: Measured, tasks: Sequence[Task]) -> dict[str, dict[str, list[Measurement]]]:
    """The measurements of each prompt category."""
    return {
        category: {
            name: [each for each, task in zip(measurements, tasks, strict=True) if task.category == category]
            for name, measurements in measured.items()
        }
        for category in dict.fromkeys(task.category for task in tasks)
    }


def fastest(measured: Measured, names: Sequence[str]) -> str | None:
    """The fastest of some arms; None of none."""
    known = [name for name in names if name in measured]
    return max(known, key=lambda name: median_speed(measured[name])) if known else None


def measured_figures(measured: Measured) -> dict[str, Any]:
    """Figures and ratios of a set of arms."""
    return {
        "arms": {name: arm_figures(measurements) for name, measurements in measured.items()},
        "ratios": {name: asdict(interval) for name, interval in ratios(measured).items()},
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
    }


def versions() -> dict[str, str | None]:
    """What was measured, and what it stands on."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "sybil-engine": __version__,
        "python": platform.python_version(),
        **{package: installed(package) for package in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
