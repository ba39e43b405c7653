"""What a reader should know beside a table, in sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sybil_engine.core.types import Speculation


def remarks_on(figures: Mapping[str, Any], windows: Sequence[int]) -> Iterator[str]:
    """Remarks on the figures of one temperature.

    Args:
        windows: of lockstep, that were tried; in tokens.
    """
    yield from _on_lockstep(figures, windows)
    yield from _on_peers(figures)
    yield from _on_emulation(figures)
    yield from _on_differences(figures["differences"])


def _on_lockstep(figures: Mapping[str, Any], windows: Sequence[int]) -> Iterator[str]:
    lockstep = figures["arms"].get(Speculation.LOCKSTEP.value)
    if lockstep and len(windows) > 1:
        best = lockstep["window_tokens"]
        edge = "; it is the longest tried, a longer one may be faster" if best == max(windows) else ""
        yield f"lockstep: a window of {best} tokens is the fastest of {', '.join(map(str, windows))}{edge}"


def _on_peers(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, peer in figures["peers"].items():
        changed = {key: value for key, value in peer["best"].items() if value != peer["default"][key]}
        best = ", ".join(f"{key} {value}" for key, value in changed.items()) or "the default"
        yield f"{name}: best setting of {len(peer['searched'])} searched: {best}"


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
