"""The summary of one temperature: tables, and remarks on them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Measured, arm_figures
from benchmarks.measurement import median_speed, speed_ratio
from sybil_engine.core.types import Speculation


def summary(
    title: str,
    measured: Measured,
    categories: Mapping[str, Measured],
    figures: Mapping[str, Any],
    windows: Sequence[int],
) -> list[RenderableType]:
    """Tables and remarks, in the order in which they are shown.

    Args:
        categories: the same measurements by prompt category.
        figures: the JSON figures of this temperature.
        windows: the lockstep windows that were tried, in tokens.
    """
    peers = [name for name in measured if name.startswith("transformers")]
    fastest_peer = max(peers, key=lambda name: median_speed(measured[name]), default="")
    wanted = (Speculation.OFF.value, Speculation.LOCKSTEP.value, fastest_peer)
    against = [name for name in wanted if name in measured] or [next(iter(measured))]
    parts: list[RenderableType] = [_arms_table(title, measured, against)]
    if len(categories) > 1:
        parts.append(_category_table(categories, against[0]))
    return [*parts, *(Text(line) for line in _remarks(figures, windows))]


def _arms_table(title: str, measured: Measured, against: Sequence[str]) -> Table:
    """One row for each arm: speed, ratios to the arms in `against`, rates."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("arm")
    ratios = [f"x {name}" for name in against]
    for column in ("tokens/s", *ratios, "acceptance", "tokens/pass", "verifier idle", "gap p50", "overlap"):
        shown.add_column(column, justify="right")
    for name, measurements in measured.items():
        figures = arm_figures(measurements)
        cells = [f"{figures['tokens_per_second']['median']:.1f}"]
        for other in against:
            ratio = speed_ratio(measurements, measured[other])
            cells.append("" if other == name else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
        gap_ns = figures["gap_between_passes_ns"]
        shown.add_row(
            name,
            *cells,
            _cell(figures["acceptance_rate"], ".2f"),
            _cell(figures["tokens_per_pass"], ".2f"),
            _cell(figures["verifier_idle"], ".1%"),
            "" if gap_ns is None else f"{gap_ns / 1e6:.2f} ms",
            _cell(figures["overlap"], ".2f"),
        )
    return shown


def _cell(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _category_table(categories: Mapping[str, Measured], against: str) -> Table:
    """One row for each arm, one column for each category: tokens per second, and the ratio to one arm."""
    shown = Table(title="tokens/s by prompt category", title_justify="left")
    shown.add_column("arm")
    for category, measured in categories.items():
        shown.add_column(f"{category} ({len(measured[against])})", justify="right")
    for name in next(iter(categories.values())):
        cells = (
            f"{median_speed(measured[name]):.1f} ({speed_ratio(measured[name], measured[against]).median:.2f}x)"
            for measured in categories.values()
        )
        shown.add_row(name, *cells)
    return shown


def _remarks(figures: Mapping[str, Any], windows: Sequence[int]) -> Iterator[str]:
    lockstep = figures["arms"].get(Speculation.LOCKSTEP.value)
    if lockstep and len(windows) > 1:
        best = lockstep["window_tokens"]
        edge = "; it is the longest tried, a longer one may be faster" if best == max(windows) else ""
        yield f"lockstep: a window of {best} tokens is the fastest of {', '.join(map(str, windows))}{edge}"
    if lockstep and lockstep["round"]:
        mean_ms, rest_ms = (lockstep["round"][name] / 1e6 for name in ("mean_ns", "without_models_ns"))
        yield f"lockstep: of a round of {mean_ms:.1f} ms, {rest_ms:.1f} ms are messages and Python between passes"
    for name, peer in figures["peers"].items():
        changed = {key: value for key, value in peer["best"].items() if value != peer["default"][key]}
        setting = ", ".join(f"{key} {value}" for key, value in changed.items()) or "the default"
        yield f"{name}: best setting of {len(peer['searched'])} searched: {setting}"
    yield from _on_emulation(figures)
    yield from _on_differences(figures["differences"])


def _on_emulation(figures: Mapping[str, Any]) -> Iterator[str]:
    environment = figures["environment"]
    if not environment["emulated"] or environment["row_ms"]:
        return
    slow = [
        f"{name} {arm['verify_pass_ns'] / 1e6:.1f} ms"
        for name, arm in figures["arms"].items()
        if (arm["verify_pass_ns"] or 0) > 1.1e6 * environment["verify_ms"]
    ]
    if slow:
        yield (
            f"verify passes took longer than the {environment['verify_ms']:g} ms asked for: {', '.join(slow)}; "
            "this machine is too slow, or too busy, for these times"
        )


def _on_differences(differences: Mapping[str, Any]) -> Iterator[str]:
    line = (
        f"completions that differ from {differences['reference']}: {differences['count']} of {differences['compared']}"
    )
    margins = [margin for margin in differences["margins"] if margin is not None]
    if margins:
        line += f", where the target scores the two tokens {max(margins):.2g} apart at most"
    if differences["count"] and differences["numerics"] == "exact":
        line += " - in exact mode this must not happen: please report it, with the JSON file"
    yield line
    peers = differences["peers"]
    if peers["compared"]:
        yield f"greedy completions of peers that differ from it: {peers['count']} of {peers['compared']}"
