"""The plots of a report, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from benchmarks.anatomy import PARTS, Anatomy, Fate, acceptance_by_position, pass_parts
from sybil_engine.core.types import BlockOrigin

_DPI = 130
_FATE_COLOURS = {
    Fate.ACCEPTED: "#2a9d57",
    Fate.REJECTED: "#d1495b",
    Fate.STALE: "#9aa0a6",
    Fate.LATE: "#edae49",
}
_PART_COLOURS = dict(zip(PARTS, ("#c9cdd2", "#edae49", "#8d96a3", "#33658a", "#86bbd8"), strict=True))
_PART_NAMES = dict(zip(PARTS, ("queue", "wait for draft", "wire", "forward", "sampling"), strict=True))
_BAR = "#33658a"
_COMMIT_COLOUR = "#33658a"
_SHOWN_PASSES = 8
_SKIPPED_PASSES = 4


def throughput(arms: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Tokens per second of each arm, with intervals."""
    figure, axes = _figure(title, width=max(6.0, 1.1 * len(arms)))
    speeds = [figures["tokens_per_second"] for figures in arms.values()]
    medians = [speed["median"] for speed in speeds]
    errors = [
        [speed["median"] - speed["low"] for speed in speeds],
        [speed["high"] - speed["median"] for speed in speeds],
    ]
    bars = axes.bar(list(arms), medians, yerr=errors, capsize=4, color=_BAR)
    axes.bar_label(bars, [f"{median:.1f}" for median in medians], padding=3, fontsize=8)
    axes.set_ylabel("tokens/s, median and 95 % interval")
    _slant(axes)
    _save(figure, path)


def tokens_per_pass(arms: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Committed tokens per verify pass of each of our arms."""
    values = {name: figures["tokens_per_pass"] for name, figures in arms.items() if figures["tokens_per_pass"]}
    figure, axes = _figure(title)
    bars = axes.bar(list(values), list(values.values()), color=_BAR)
    axes.bar_label(bars, [f"{value:.2f}" for value in values.values()], padding=3, fontsize=8)
    axes.set_ylabel("tokens per verify pass")
    _slant(axes)
    _save(figure, path)


def acceptance(anatomies: Mapping[str, Sequence[Anatomy]], title: str, path: Path) -> None:
    """Share of tested tokens that were accepted, by position in the window."""
    figure, axes = _figure(title)
    for name, each in anatomies.items():
        counts = acceptance_by_position(each)
        if counts:
            axes.plot(
                range(1, len(counts) + 1), [accepted / tested for tested, accepted in counts], marker="o", label=name
            )
    axes.set_xlabel("position in the window")
    axes.set_ylabel("acceptance rate of the tested")
    axes.set_ylim(-0.03, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend(fontsize=8)
    _save(figure, path)


def pass_time(anatomies: Mapping[str, Sequence[Anatomy]], title: str, path: Path) -> None:
    """Where the mean time from one commit to the next goes."""
    figure, axes = _figure(title)
    names = list(anatomies)
    left_ms = [0.0] * len(names)
    parts = {name: pass_parts(each) for name, each in anatomies.items()}
    for part in PARTS:
        widths_ms = [parts[name][part] / 1e6 for name in names]
        axes.barh(names, widths_ms, left=left_ms, color=_PART_COLOURS[part], label=_PART_NAMES[part])
        left_ms = [left + width for left, width in zip(left_ms, widths_ms, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("ms from one commit to the next, mean")
    axes.legend(fontsize=8, ncols=len(PARTS), loc="upper center", bbox_to_anchor=(0.5, -0.16))
    _save(figure, path)


def timeline(anatomy: Anatomy, title: str, path: Path) -> None:
    """A stretch of one session: drafter, wire and verifier; each drafted token coloured by its fate."""
    passes = anatomy.passes
    first = min(_SKIPPED_PASSES, max(0, len(passes) - _SHOWN_PASSES))
    shown = passes[first : first + _SHOWN_PASSES]
    if not shown:
        return
    origin_ns, end_ns = passes[max(0, first - 1)].end_ns, shown[-1].end_ns + anatomy.trace.verifier_wire_ns
    figure, axes = _figure(title, width=13.0, height=3.8)

    def ms(at_ns: int) -> float:
        return (at_ns - origin_ns) / 1e6

    for token in anatomy.drafted:
        if token.end_ns < origin_ns or token.start_ns > end_ns:
            continue
        colour = _FATE_COLOURS[token.fate]
        hatch = "///" if token.origin is BlockOrigin.HEDGE else None
        bottom = 2.0 if token.origin is BlockOrigin.TRUNK else 2.45
        width = max(ms(token.end_ns) - ms(token.start_ns), 0.02)
        axes.broken_barh(
            [(ms(token.start_ns), width)], (bottom, 0.4), facecolors=colour, edgecolors="white", hatch=hatch, lw=0.6
        )
        if token.at_verifier_ns is not None:
            axes.plot([ms(token.end_ns), ms(token.at_verifier_ns)], [1.9, 1.1], color=colour, lw=1.0)
    for each in shown:
        forward_end_ns = each.end_ns - each.sampling_ns
        axes.broken_barh(
            [
                (ms(each.start_ns), ms(forward_end_ns) - ms(each.start_ns)),
                (ms(forward_end_ns), ms(each.end_ns) - ms(forward_end_ns)),
            ],
            (0.1, 0.8),
            facecolors=[_PART_COLOURS["forward_ns"], _PART_COLOURS["sampling_ns"]],
        )
        axes.text(
            (ms(each.start_ns) + ms(each.end_ns)) / 2,
            0.5,
            f"{each.accepted_tokens}/{each.window_tokens}",
            ha="center",
            va="center",
            color="white",
            fontsize=8,
        )
        commit_end_ns = each.end_ns + anatomy.trace.verifier_wire_ns + anatomy.trace.drafter_wire_ns
        axes.plot([ms(each.end_ns), ms(commit_end_ns)], [1.1, 1.9], color=_COMMIT_COLOUR, lw=1.2, ls=":")
    axes.set_yticks([0.5, 1.5, 2.4], ["verifier\n(accepted/judged)", "wire", "drafter\n(hedges above)"])
    axes.set_ylim(0, 3)
    axes.set_xlim(0, ms(end_ns))
    axes.set_xlabel("ms")
    handles = [Patch(color=colour, label=fate.value) for fate, colour in _FATE_COLOURS.items()]
    handles += [Patch(color=_COMMIT_COLOUR, label="verify pass; dotted: commit")]
    axes.legend(handles=handles, fontsize=8, ncols=len(handles), loc="upper center", bbox_to_anchor=(0.5, -0.16))
    _save(figure, path)


def _figure(title: str, width: float = 7.5, height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=_DPI)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _slant(axes: Axes) -> None:
    axes.tick_params(axis="x", labelrotation=25, labelsize=8)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight")
