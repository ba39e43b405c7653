"""The plots of a load test."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.level import Level
from loadtest.measured import MeasuredSegment
from loadtest.record import RequestRecord, Status, token_gaps_ns
from loadtest.rows import Row
from reporting.drawing import figure_of
from sybil_engine.core.types import Speculation

_COLOURS = {
    Speculation.OFF: "#8d96a3",
    Speculation.LOCKSTEP: "#edae49",
    Speculation.PIPELINED: "#2a9d57",
    Speculation.HEDGED: "#d1495b",
    Speculation.AUTO: "#33658a",
}
_MOST_POINTS = 2000

Values = Callable[[RequestRecord], Sequence[float]]


def draw_plots(rows: Sequence[Row], measured: Sequence[MeasuredSegment]) -> dict[str, Figure]:
    """Draw every plot, by the title it is shown under."""
    timed = [each for each in measured if each.segment.timed]
    plots = {
        "Throughput": _throughput(rows),
        "Time to first token": _latency(rows, "ttft_ms"),
        "Inter-token latency": _latency(rows, "itl_ms"),
        "Distribution of the time to first token": _distributions(timed, _ttft_ms, "ms to the first token"),
        "Distribution of the inter-token latency": _distributions(timed, _gaps_ms, "ms from token to token"),
    }
    chosen = _chosen(timed)
    return {**plots, "What auto chose": chosen} if chosen else plots


def _throughput(rows: Sequence[Row]) -> Figure:
    """Tokens per second against load; a dot for each round."""
    figure, (axes,) = figure_of()
    for arm, own in _by_arm(rows).items():
        axes.plot(_amounts(own), [row["tokens_per_second"] for row in own], color=_COLOURS[arm], label=arm.value)
        for row in own:
            rounds = row["tokens_per_second_by_round"]
            axes.plot([row["amount"]] * len(rounds), rounds, ".", color=_COLOURS[arm], alpha=0.5)
    return _against_load(figure, axes, rows, "tokens/s")


def _latency(rows: Sequence[Row], name: str) -> Figure:
    """Median and 99th percentile against load."""
    figure, (axes,) = figure_of()
    for arm, own in _by_arm(rows).items():
        known = [row for row in own if row[name]]
        for percentile, style in (("p50", "-"), ("p99", "--")):
            values = [row[name][percentile] for row in known]
            axes.plot(
                _amounts(known), values, style, marker="o", color=_COLOURS[arm], label=f"{arm.value} {percentile}"
            )
    return _against_load(figure, axes, rows, "ms")


def _distributions(measured: Sequence[MeasuredSegment], values: Values, unit: str) -> Figure:
    """For each level the share of values up to each, on a logarithmic scale."""
    levels = _levels(measured)
    figure, places = figure_of(len(levels))
    for level, axes in zip(levels, places, strict=True):
        for arm in _arms(measured):
            found = np.sort([value for record in _completed(measured, level, arm) for value in values(record)])
            if found.size:
                shares = np.linspace(0, 1, min(found.size, _MOST_POINTS))
                axes.step(np.quantile(found, shares), shares, color=_COLOURS[arm], label=arm.value)
        axes.set(title=str(level), xlabel=unit, xscale="symlog", ylabel="share of them")
        if axes.lines:
            axes.legend(fontsize=8)
    return figure


def _chosen(measured: Sequence[MeasuredSegment]) -> Figure | None:
    """For each level the requests of `auto` in the order they were sent: the share of passes of each way."""
    levels = [level for level in _levels(measured) if _completed(measured, level, Speculation.AUTO)]
    if not levels:
        return None
    figure, places = figure_of(len(levels), height=2.2)
    for level, axes in zip(levels, places, strict=True):
        records = _completed(measured, level, Speculation.AUTO)
        passes = [max(1, sum(record.passes.values())) for record in records]
        base = np.zeros(len(records))
        for way, colour in _COLOURS.items():
            shares = np.array([record.passes.get(way.value, 0) for record in records]) / passes
            if shares.any():
                axes.bar(range(1, len(records) + 1), shares, 1.0, bottom=base, color=colour, label=way.value)
            base += shares
        axes.set(title=str(level), xlabel="requests in the order they were sent", ylabel="share of passes")
        axes.legend(fontsize=8, ncols=len(_COLOURS), loc="upper center", bbox_to_anchor=(0.5, -0.3))
    return figure


def _against_load(figure: Figure, axes: Axes, rows: Sequence[Row], unit: str) -> Figure:
    amounts = sorted({row["amount"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
    axes.minorticks_off()
    axes.set_xlabel("users at once" if rows[0]["closed_loop"] else "requests a second")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(fontsize=8)
    return figure


def _by_arm(rows: Sequence[Row]) -> dict[Speculation, list[Row]]:
    arms = dict.fromkeys(row["arm"] for row in rows)
    return {Speculation(arm): [row for row in rows if row["arm"] == arm] for arm in arms}


def _amounts(rows: Sequence[Row]) -> list[float]:
    return [row["amount"] for row in rows]


def _levels(measured: Sequence[MeasuredSegment]) -> list[Level]:
    return list(dict.fromkeys(each.segment.level for each in measured))


def _arms(measured: Sequence[MeasuredSegment]) -> list[Speculation]:
    return list(dict.fromkeys(each.segment.arm for each in measured))


def _completed(measured: Sequence[MeasuredSegment], level: Level, arm: Speculation) -> list[RequestRecord]:
    return [
        record
        for each in measured
        if each.segment.level == level and each.segment.arm is arm
        for record in each.counted
        if record.status is Status.COMPLETED
    ]


def _ttft_ms(record: RequestRecord) -> list[float]:
    return [record.ttft_ns / 1e6] if record.ttft_ns is not None else []


def _gaps_ms(record: RequestRecord) -> list[float]:
    return [gap / 1e6 for gap in token_gaps_ns(record.arrivals)]
