"""The figures of a run, as in its JSON; docs/benchmarks.md says how to read each."""

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measured, Measurement, speed_ratio
from reporting.intervals import median_interval
from sybil_engine import __version__
from sybil_engine.core.ledger import Ledger

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "grpcio", "protobuf", "ray")


def arm_figures(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Speed and rates of one arm; rates are those of all its completions together."""

    def values(name: str) -> list[float]:
        return [measurement.counts[name] for measurement in measurements if name in measurement.counts]

    def rate(numerator: str, denominator: str) -> float | None:
        total = sum(values(denominator))
        return sum(values(numerator)) / total if total else None

    def median(name: str) -> float | None:
        return statistics.median(values(name)) if values(name) else None

    drafted_tokens = sum(values("drafted_tokens"))
    mean_round = round_figures(measurements)
    return {
        "tokens_per_second": median_interval([each.tokens_per_second for each in measurements]),
        "acceptance_rate": rate("accepted_tokens", "tested_tokens"),
        "draft_efficiency": rate("accepted_tokens", "drafted_tokens"),
        "tokens_per_pass": rate("completion_tokens", "verify_passes"),
        "verifier_idle": mean_round and max(0.0, 1 - mean_round["verify_ns"] / mean_round["mean_ns"]),
        "verify_pass_ns": rate("verify_ns", "verify_passes"),
        "gap_between_passes_ns": median("gap_p50_ns"),
        "round": mean_round,
        "overlap": rate("overlap_ns", "verify_ns") if drafted_tokens else None,
        "wasted_draft_tokens": drafted_tokens - sum(values("tested_tokens")) if drafted_tokens else None,
        "relay_ns": median("relay_p50_ns"),
        "time_to_first_token_ns": median("time_to_first_token_ns"),
        "completion_tokens": sum(len(each.token_ids) for each in measurements),
        "completions": len(measurements),
    }


def measurement_figures(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Each completion of one arm: its text's fingerprint, its time, and the arm's other counts."""
    return [
        {
            "text_fingerprint": f"{Ledger(each.token_ids, 0).fingerprint(len(each.token_ids)):016x}",
            "duration_ns": round(each.duration_s * 1e9),
            **{name: round(count) for name, count in each.counts.items()},
        }
        for each in measurements
    ]


def round_figures(measurements: Sequence[Measurement]) -> dict[str, float] | None:
    """Means over all rounds, each from one verify pass of a session to the next, in nanoseconds.

    A round's time outside both models' passes is messages and Python if the models take turns. None for an arm that
    reports no passes.
    """
    rounds = round_ns = verify_ns = draft_ns = 0.0
    for counts in (each.counts for each in measurements):
        passes = counts.get("verify_passes", 0)
        if passes > 1:
            rounds += passes - 1
            # The first pass yields the first token.
            round_ns += counts["total_ns"] - counts["time_to_first_token_ns"]
            verify_ns += counts["verify_ns"] * (passes - 1) / passes
            draft_ns += counts["draft_ns"] * (passes - 1) / passes
    if not round_ns:
        return None
    sums = {"mean_ns": round_ns, "verify_ns": verify_ns, "without_models_ns": round_ns - verify_ns - draft_ns}
    return {name: each_ns / rounds for name, each_ns in sums.items()}


def measured_figures(measured: Measured) -> dict[str, Any]:
    """Figures of a set of arms, and the speed ratio of each pair, as "A/B"."""
    return {
        "arms": {name: arm_figures(measurements) for name, measurements in measured.items()},
        "ratios": {
            f"{one}/{other}": speed_ratio(measured[one], measured[other])
            for one in measured
            for other in measured
            if one != other
        },
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Versions of the engine and of what it depends on."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"sybil-engine": __version__, "python": platform.python_version(), **packages}
