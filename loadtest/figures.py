"""The figures of an arm at a level, from what clients saw."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.level import Level
from loadtest.record import RequestRecord, Status, token_gaps_ns
from loadtest.segment import Segment
from loadtest.slo import Slo
from loadtest.worker import Part
from sybil_engine.core.completion import Stats
from sybil_engine.core.types import Speculation

_PERCENTILES = (50, 90, 99)
_MOST_ERRORS = 3


@dataclass(frozen=True, slots=True)
class MeasuredSegment:
    """What came of one segment.

    Attributes:
        from_ns, until_ns: the time under full load: after the ramp, and before there was too little left to send.
        busy: share of a core that the busiest client process used.
        lost: the server went away.
    """

    segment: Segment
    records: tuple[RequestRecord, ...]
    from_ns: int
    until_ns: int
    busy: float
    processes: int
    lost: bool = False

    @classmethod
    def of(cls, segment: Segment, parts: Sequence[Part]) -> "MeasuredSegment":
        """All workers' parts of a segment together."""
        from_ns = segment.start_ns + int(segment.ramp_s * 1e9)
        return cls(
            segment=segment,
            records=tuple(sorted((each for part in parts for each in part.records), key=lambda each: each.due_ns)),
            from_ns=from_ns,
            until_ns=max(from_ns, min(part.full_until_ns for part in parts)),
            busy=max(part.busy for part in parts),
            processes=len(parts),
            lost=any(part.lost for part in parts),
        )

    @property
    def window_s(self) -> float:
        return (self.until_ns - self.from_ns) / 1e9

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.window_s if self.window_s else 0.0

    @property
    def tokens(self) -> int:
        """Tokens that came under full load."""
        return sum(
            tokens
            for record in self.records
            for time_ns, tokens in record.arrivals
            if self.from_ns <= time_ns <= self.until_ns
        )

    @property
    def counted(self) -> list[RequestRecord]:
        """Requests that were due after the ramp."""
        return [record for record in self.records if record.due_ns >= self.from_ns]


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

    Latencies are of completed requests. Throughput is of the time under full load.
    """
    counted = [record for each in measured for record in each.counted]
    completed = [record for record in counted if record.status is Status.COMPLETED]
    usages = [record.usage for record in completed]
    window_s = sum(each.window_s for each in measured)
    sent_s = sum(_sending_s(each) for each in measured)
    statuses = Counter(record.status for record in counted)
    good = sum(slo.kept_by(record) for record in counted) if slo else None
    stats = Stats.of(*usages)
    passes = sum((Counter(record.passes) for record in completed), Counter[str]())
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    return {
        "requests": len(counted),
        **{status.value: statuses[status] for status in Status},
        "tokens_per_second": sum(each.tokens for each in measured) / window_s if window_s else 0.0,
        "tokens_per_second_by_round": [each.tokens_per_second for each in measured],
        "requests_per_second": len(completed) / sent_s if sent_s else 0.0,
        "goodput": None if good is None else good / sent_s if sent_s else 0.0,
        "good_share": None if good is None else good / len(counted) if counted else 0.0,
        "ttft_ms": distribution(record.ttft_ns for record in completed),
        "tpot_ms": distribution(record.tpot_ns for record in completed),
        "itl_ms": distribution(gap for record in completed for gap in token_gaps_ns(record.arrivals)),
        "e2e_ms": distribution(record.total_ns for record in completed),
        "queue_ms": distribution(usage.queue_ns for usage in usages),
        "refused_after_ms": distribution(each.total_ns for each in counted if each.status is Status.REFUSED),
        "acceptance_rate": stats.acceptance_rate,
        "tokens_per_pass": stats.tokens_per_pass,
        "prompt_tokens": prompt_tokens / len(usages) if usages else None,
        "completion_tokens": sum(usage.completion_tokens for usage in usages) / len(usages) if usages else None,
        "cached_prompt_share": sum(usage.cached_prompt_tokens for usage in usages) / prompt_tokens if usages else None,
        "errors": dict(Counter(record.error for record in counted if record.error).most_common(_MOST_ERRORS)),
        "reopened_streams": sum(usage.reopened_streams for usage in usages),
        "passes": dict(passes),
        "last_reason": completed[-1].reason if completed else "",
        "client_busy": max(each.busy for each in measured),
        "client_processes": max(each.processes for each in measured),
    }


def _sending_s(measured: MeasuredSegment) -> float:
    """From the end of the ramp to the end of the last request."""
    ends = [record.end_ns for record in measured.counted]
    return (max(ends) - measured.from_ns) / 1e9 if ends else 0.0


Row = dict[str, Any]
"""An arm at a level: `level`, `amount`, `arm`, its figures and its ratios."""


def rows(measured: Sequence[MeasuredSegment], slo: Slo | None) -> list[Row]:
    """Every arm at every level, with ratios to the first arm and to the lowest level."""
    groups: dict[tuple[Level, Speculation], list[MeasuredSegment]] = {}
    for each in measured:
        if each.segment.timed:
            groups.setdefault((each.segment.level, each.segment.arm), []).append(each)
    found = {key: figures(parts, slo) for key, parts in groups.items()}
    arms, levels = list(dict.fromkeys(arm for _, arm in found)), list(dict.fromkeys(level for level, _ in found))
    return [
        {
            "level": str(level),
            "amount": level.amount,
            "closed_loop": level.concurrency is not None,
            "arm": arm.value,
            "ratio_to_first_arm": _ratio(found[level, arm], found.get((level, arms[0]))),
            "ratio_to_lowest_level": _ratio(found[level, arm], found.get((levels[0], arm))),
            **found[level, arm],
        }
        for level in levels
        for arm in arms
        if (level, arm) in found
    ]


def _ratio(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> float | None:
    speed = other["tokens_per_second"] if other else 0.0
    return one["tokens_per_second"] / speed if speed else None
