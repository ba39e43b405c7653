"""The plots of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from benchmarks.anatomy import PARTS, Anatomy, DraftedToken, Fate, VerifyPass, acceptance_by_position, pass_parts
from reporting.drawing import figure_of
from sybil_engine.core.types import BlockOrigin

_FATE_COLOURS = dict(zip(Fate, ("#2a9d57", "#d1495b", "#9aa0a6", "#edae49"), strict=True))
_PART_COLOURS = dict(zip(PARTS, ("#c9cdd2", "#edae49", "#8d96a3", "#33658a", "#86bbd8"), strict=True))
_BLUE = "#33658a"
_BELOW: dict[str, Any] = {"fontsize": 8, "loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
_SHOWN_PASSES = 8
_SKIPPED_PASSES = 4


def draw_plots(
    arms: Mapping[str, Mapping[str, Any]], anatomies: Mapping[str, Sequence[Anatomy]], title: str
) -> dict[str, Figure]:
    """Draw every plot of a temperature; by name."""
    timelines = {
        f"timeline-{name}": _timeline(first, f"{name}: {title}")
        for name, (first, *_) in anatomies.items()
        if first.drafted and first.passes
    }
    return {
        "throughput": _throughput(arms, title),
        "tokens-per-pass": _tokens_per_pass(arms, title),
        "acceptance-by-position": _acceptance(anatomies, title),
        "pass-time": _pass_time(anatomies, title),
        **timelines,
    }


def _throughput(arms: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Tokens per second of each arm, with intervals."""
    speeds = {name: figures["tokens_per_second"] for name, figures in arms.items()}
    medians = {name: speed["median"] for name, speed in speeds.items()}
    errors = [[abs(speed["median"] - speed[end]) for speed in speeds.values()] for end in ("low", "high")]
    return _bars(medians, "{:.1f}", "tokens/s, median and 95 % interval", title, yerr=errors, capsize=4)


def _tokens_per_pass(arms: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Committed tokens per verify pass of each of our arms."""
    values = {name: figures["tokens_per_pass"] for name, figures in arms.items() if figures["tokens_per_pass"]}
    return _bars(values, "{:.2f}", "tokens per verify pass", title)


def _acceptance(anatomies: Mapping[str, Sequence[Anatomy]], title: str) -> Figure:
    """Share of tested tokens that were accepted, by position in the window."""
    figure, axes = _figure(title)
    for name, each in anatomies.items():
        rates = [accepted / tested for tested, accepted in acceptance_by_position(each)]
        if rates:
            axes.plot(range(1, len(rates) + 1), rates, marker="o", label=name)
    axes.set_xlabel("position in the window")
    axes.set_ylabel("acceptance rate of the tested")
    axes.set_ylim(-0.03, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend(fontsize=8)
    return figure


def _pass_time(anatomies: Mapping[str, Sequence[Anatomy]], title: str) -> Figure:
    """Where the mean time from one commit to the next goes."""
    figure, axes = _figure(title)
    for name, each in anatomies.items():
        left_ms = 0.0
        for part, mean_ns in pass_parts(each).items():
            axes.barh(name, mean_ns / 1e6, left=left_ms, color=_PART_COLOURS[part])
            left_ms += mean_ns / 1e6
    axes.invert_yaxis()
    axes.set_xlabel("ms from one commit to the next, mean")
    names = [part.removesuffix("_ns").replace("_", " ") for part in PARTS]
    handles = [Patch(color=colour, label=name) for name, colour in zip(names, _PART_COLOURS.values(), strict=True)]
    axes.legend(handles=handles, ncols=len(PARTS), **_BELOW)
    return figure


def _timeline(anatomy: Anatomy, title: str) -> Figure:
    """A stretch of one session: drafter, wire and verifier; each drafted token coloured by its fate."""
    first = min(_SKIPPED_PASSES, max(0, len(anatomy.passes) - _SHOWN_PASSES))
    shown = anatomy.passes[first : first + _SHOWN_PASSES]
    verifier_wire_ns = anatomy.trace.verifier_wire_ns
    origin_ns, end_ns = anatomy.passes[max(0, first - 1)].end_ns, shown[-1].end_ns + verifier_wire_ns
    figure, axes = _figure(title, width=13.0, height=3.8)
    for token in anatomy.drafted:
        if token.end_ns >= origin_ns and token.start_ns <= end_ns:
            _draw_token(axes, token, origin_ns)
    for each in shown:
        _draw_pass(axes, each, origin_ns, verifier_wire_ns + anatomy.trace.drafter_wire_ns)
    axes.set_yticks([0.5, 1.5, 2.4], ["verifier\n(accepted/judged)", "wire", "drafter\n(hedges above)"])
    axes.set_ylim(0, 3)
    axes.set_xlim(0, (end_ns - origin_ns) / 1e6)
    axes.set_xlabel("ms")
    handles = [Patch(color=colour, label=fate) for fate, colour in _FATE_COLOURS.items()]
    handles += [Patch(color=_BLUE, label="verify pass; dotted: commit")]
    axes.legend(handles=handles, ncols=len(handles), **_BELOW)
    return figure


def _draw_token(axes: Axes, token: DraftedToken, origin_ns: int) -> None:
    """Draw a token in the drafter's lane, and its way to the verifier."""
    start_ms, end_ms = (token.start_ns - origin_ns) / 1e6, (token.end_ns - origin_ns) / 1e6
    colour = _FATE_COLOURS[token.fate]
    height, hatch = (2.45, "///") if token.origin is BlockOrigin.HEDGE else (2.0, None)
    spans = [(start_ms, max(end_ms - start_ms, 0.02))]
    axes.broken_barh(spans, (height, 0.4), facecolors=colour, edgecolors="white", hatch=hatch, lw=0.6)
    if token.at_verifier_ns is not None:
        axes.plot([end_ms, (token.at_verifier_ns - origin_ns) / 1e6], [1.9, 1.1], color=colour, lw=1.0)


def _draw_pass(axes: Axes, each: VerifyPass, origin_ns: int, wire_ns: int) -> None:
    """Draw a pass in the verifier's lane, and its commit's way to the drafter."""
    start_ms, end_ms = (each.start_ns - origin_ns) / 1e6, (each.end_ns - origin_ns) / 1e6
    sampling_ms = each.sampling_ns / 1e6
    spans = [(start_ms, end_ms - sampling_ms - start_ms), (end_ms - sampling_ms, sampling_ms)]
    axes.broken_barh(spans, (0.1, 0.8), facecolors=[_PART_COLOURS["forward_ns"], _PART_COLOURS["sampling_ns"]])
    counts = f"{each.accepted}/{each.judged}"
    axes.text((start_ms + end_ms) / 2, 0.5, counts, ha="center", va="center", color="white", fontsize=8)
    axes.plot([end_ms, end_ms + wire_ns / 1e6], [1.1, 1.9], color=_BLUE, lw=1.2, ls=":")


def _bars(values: Mapping[str, float], label: str, unit: str, title: str, **options: Any) -> Figure:
    figure, axes = _figure(title, width=max(7.5, 1.1 * len(values)))
    bars = axes.bar(list(values), list(values.values()), color=_BLUE, **options)
    axes.bar_label(bars, [label.format(value) for value in values.values()], padding=3, fontsize=8)
    axes.set_ylabel(unit)
    axes.set_xticks(range(len(values)), list(values), rotation=25, ha="right", fontsize=8)
    return figure


def _figure(title: str, width: float = 7.5, height: float = 4.2) -> tuple[Figure, Axes]:
    figure, (axes,) = figure_of(width=width, height=height)
    axes.set_title(title, fontsize=9)
    return figure, axes
