"""The figures of an arm at a level, from what clients saw."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from loadtest.measured import MeasuredSegment
from loadtest.record import RequestRecord, Status, token_gaps_ns
from loadtest.slo import Slo
from sybil_engine.core.completion import Stats

_PERCENTILES = (50, 90, 99)
_MOST_ERRORS = 3


def distribution(values: Iterable[float | None], unit: float = 1e6) -> dict[str, float] | None:
    """Mean and percentiles, linear between neighbours; None if there are no values.

    Args:
        unit: what the values are divided by; 1e6 makes ms of ns.
    """
    known = np.array([value for value in values if value is not None]) / unit
    if not known.size:
        return None
    named = zip(_PERCENTILES, np.percentile(known, _PERCENTILES), strict=True)
    return {"mean": float(known.mean()), **{f"p{percentile}": float(value) for percentile, value in named}}


def figures(measured: Sequence[MeasuredSegment], slo: Slo | None) -> dict[str, Any]:
    """Every figure of one arm at one level, all rounds together.

    Latencies are of completed requests. Throughput: see `MeasuredSegment`.
    """
    counted = [record for each in measured for record in each.counted]
    completed = [record for record in counted if record.status is Status.COMPLETED]
    return {
        **_request_counts(counted),
        **_speeds(measured),
        **_goodness(counted, sum(each.sending_s for each in measured), slo),
        **_latencies(counted, completed),
        **_server_figures(completed),
        "client_busy": max(each.busy for each in measured),
        "client_processes": max(each.processes for each in measured),
    }


def _request_counts(counted: Sequence[RequestRecord]) -> dict[str, Any]:
    """How requests ended."""
    statuses = Counter(record.status for record in counted)
    errors = Counter(record.error for record in counted if record.error)
    return {
        "requests": len(counted),
        **{status.value: statuses[status] for status in Status},
        "errors": dict(errors.most_common(_MOST_ERRORS)),
    }


def _speeds(measured: Sequence[MeasuredSegment]) -> dict[str, Any]:
    window_s = sum(each.window_s for each in measured)
    return {
        "tokens_per_second": sum(each.tokens for each in measured) / window_s if window_s else 0.0,
        "tokens_per_second_by_round": [each.tokens_per_second for each in measured],
    }


def _goodness(counted: Sequence[RequestRecord], sending_s: float, slo: Slo | None) -> dict[str, Any]:
    """Completed requests a second, and those of them within the limits."""

    def a_second(requests: int) -> float:
        return requests / sending_s if sending_s else 0.0

    good = sum(slo.kept_by(record) for record in counted) if slo else None
    return {
        "requests_per_second": a_second(sum(record.status is Status.COMPLETED for record in counted)),
        "goodput": None if good is None else a_second(good),
        "good_share": None if good is None else good / len(counted) if counted else 0.0,
    }


def _latencies(counted: Sequence[RequestRecord], completed: Sequence[RequestRecord]) -> dict[str, Any]:
    refused = [record for record in counted if record.status is Status.REFUSED]
    return {
        "ttft_ms": distribution(record.ttft_ns for record in completed),
        "tpot_ms": distribution(record.tpot_ns for record in completed),
        "itl_ms": distribution(gap for record in completed for gap in token_gaps_ns(record.arrivals)),
        "e2e_ms": distribution(record.total_ns for record in completed),
        "queue_ms": distribution(record.usage.queue_ns for record in completed),
        "refused_after_ms": distribution(record.total_ns for record in refused),
    }


def _server_figures(completed: Sequence[RequestRecord]) -> dict[str, Any]:
    """What the server said of requests that it completed; lengths are means."""
    usages = [record.usage for record in completed]
    stats = Stats.of(*usages)
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    cached_tokens = sum(usage.cached_prompt_tokens for usage in usages)
    return {
        "acceptance_rate": stats.acceptance_rate,
        "tokens_per_pass": stats.tokens_per_pass,
        "prompt_tokens": prompt_tokens / len(usages) if usages else None,
        "completion_tokens": sum(usage.completion_tokens for usage in usages) / len(usages) if usages else None,
        "cached_prompt_share": cached_tokens / prompt_tokens if prompt_tokens else None,
        "reopened_streams": sum(usage.reopened_streams for usage in usages),
        "passes": dict(sum((Counter(record.passes) for record in completed), Counter[str]())),
        "last_reason": completed[-1].reason if completed else "",
    }
