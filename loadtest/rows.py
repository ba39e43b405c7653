"""The rows of a report: every arm at every level, and how much faster one is than another."""

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.figures import figures
from loadtest.level import Level
from loadtest.measured import MeasuredSegment
from loadtest.slo import Slo
from reporting.intervals import median_interval
from sybil_engine.core.types import Speculation

Row = dict[str, Any]
"""An arm at a level: `level`, `amount`, `arm`, its figures and its ratios."""

Key = tuple[Level, Speculation]
Groups = Mapping[Key, Sequence[MeasuredSegment]]
"""The timed segments of each arm at each level, a round each."""

Figures = Mapping[Key, Mapping[str, Any]]


def rows(measured: Sequence[MeasuredSegment], slo: Slo | None) -> list[Row]:
    """Every arm at every level, with ratios to the first arm, the lowest level, and of `auto` to the best other arm."""
    groups: dict[Key, list[MeasuredSegment]] = {}
    for each in measured:
        if each.segment.timed:
            groups.setdefault((each.segment.level, each.segment.arm), []).append(each)
    found = {key: figures(parts, slo) for key, parts in groups.items()}
    levels, arms = (list(dict.fromkeys(each)) for each in zip(*groups, strict=True)) if groups else ([], [])
    return [
        {
            "level": str(level),
            "amount": level.amount,
            "closed_loop": level.concurrency is not None,
            "arm": arm.value,
            "ratio_to_first_arm": speed_ratio(groups[level, arm], groups.get((level, arms[0]), [])),
            "ratio_to_lowest_level": speed_ratio(groups[level, arm], groups.get((levels[0], arm), [])),
            **_against_best_fixed(groups, found, level, arm),
            **found[level, arm],
        }
        for level in levels
        for arm in arms
        if (level, arm) in groups
    ]


def speed_ratio(one: Sequence[MeasuredSegment], other: Sequence[MeasuredSegment]) -> dict[str, float] | None:
    """How much faster one arm is than another, round by round; None if no round holds tokens of both.

    Returns:
        The median of the rounds' ratios, and its 95 % interval.
    """
    base = {each.segment.round_number: each.tokens_per_second for each in other}
    speeds = [(each.tokens_per_second, base.get(each.segment.round_number, 0.0)) for each in one]
    ratios = [mine / theirs for mine, theirs in speeds if theirs]
    return median_interval(ratios) if ratios else None


def _against_best_fixed(groups: Groups, found: Figures, level: Level, arm: Speculation) -> dict[str, Any]:
    """Of `auto`: the arm that was the fastest of the others at this level, and the ratio to it."""
    fixed = [each for at, each in groups if at == level and each is not Speculation.AUTO]
    if arm is not Speculation.AUTO or not fixed:
        return {"best_fixed_arm": None, "ratio_to_best_fixed_arm": None}
    best = max(fixed, key=lambda each: found[level, each]["tokens_per_second"])
    return {
        "best_fixed_arm": best.value,
        "ratio_to_best_fixed_arm": speed_ratio(groups[level, arm], groups[level, best]),
    }
