"""Medians, and how sure they are."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

_RESAMPLES = 2_000


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """The median of values, and the "low" and "high" end of its 95 % bootstrap interval.

    Source: Efron 1979 (percentile bootstrap).
    """
    resamples = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(resamples, axis=1), (0.025, 0.975))
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}


def interval_text(interval: Mapping[str, float]) -> str:
    """The median and its interval, as tables show a ratio."""
    return f"{interval['median']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
