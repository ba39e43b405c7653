"""The summary of one temperature: tables, and remarks on them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from reporting.intervals import interval_text
from sybil_engine.core.types import Speculation


def summary(title: str, figures: Mapping[str, Any]) -> list[RenderableType]:
    """Tables and remarks, in the order in which they are shown.

    Args:
        figures: what JSON says of this temperature.
    """
    arms = figures["arms"]
    peers = [name for name in arms if name.startswith("transformers")]
    fastest_peer = max(peers, key=lambda name: arms[name]["tokens_per_second"]["median"], default="")
    wanted = (Speculation.OFF.value, Speculation.LOCKSTEP.value, fastest_peer)
    against = [name for name in wanted if name in arms] or [next(iter(arms))]
    parts: list[RenderableType] = [_arms_table(title, figures, against)]
    if len(figures["categories"]) > 1:
        parts.append(_category_table(figures["categories"], against[0]))
    return [*parts, *(Text(line) for line in _remarks(figures))]


def _arms_table(title: str, figures: Mapping[str, Any], against: Sequence[str]) -> Table:
    """One row an arm: speed, ratios to the arms in `against`, rates."""
    ratios = [f"x {name}" for name in against]
    rates = {"acceptance_rate": ".2f", "tokens_per_pass": ".2f", "verifier_idle": ".1%", "overlap": ".2f"}
    shown = _table(title, ("tokens/s", *ratios, "acceptance", "tokens/pass", "verifier idle", "overlap", "gap p50"))
    for name, arm in figures["arms"].items():
        cells = [f"{arm['tokens_per_second']['median']:.1f}"]
        for other in against:
            ratio = figures["ratios"].get(f"{name}/{other}")
            cells.append(interval_text(ratio) if ratio else "")
        cells += ["" if arm[rate] is None else format(arm[rate], spec) for rate, spec in rates.items()]
        gap_ns = arm["gap_between_passes_ns"]
        shown.add_row(name, *cells, "" if gap_ns is None else f"{gap_ns / 1e6:.2f} ms")
    return shown


def _category_table(categories: Mapping[str, Any], against: str) -> Table:
    """One row an arm, one column a category: tokens per second, and the ratio to one arm."""
    headings = [f"{name} ({figures['arms'][against]['completions']})" for name, figures in categories.items()]
    shown = _table("tokens/s by prompt category", headings)
    for arm in next(iter(categories.values()))["arms"]:
        cells = []
        for figures in categories.values():
            ratio = 1.0 if arm == against else figures["ratios"][f"{arm}/{against}"]["median"]
            cells.append(f"{figures['arms'][arm]['tokens_per_second']['median']:.1f} ({ratio:.2f}x)")
        shown.add_row(arm, *cells)
    return shown


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _remarks(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, arm in figures["arms"].items():
        windows = [each["window_tokens"] for each in figures["lockstep_windows"] if each["arm"] == name]
        if len(windows) > 1:
            best = arm["window_tokens"]
            edge = "; it is the longest tried, a longer one may be faster" if best == max(windows) else ""
            yield f"{name}: a window of {best} tokens is the fastest of {', '.join(map(str, windows))}{edge}"
        if windows and arm["round"]:
            mean_ms, rest_ms = (arm["round"][key] / 1e6 for key in ("mean_ns", "without_models_ns"))
            yield f"{name}: of a round of {mean_ms:.1f} ms, {rest_ms:.1f} ms are messages and Python between passes"
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
