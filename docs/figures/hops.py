"""Draws docs/figures/hops.png, the hops of one lockstep round: `python docs/figures/hops.py`."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LANES = ("verifier: engine thread", "verifier: event loop", "coordinator: event loop", "drafter: event loop")
LANES += ("drafter: engine thread",)
COLOURS = {"message": "#c44e52", "thread": "#dd8452", "Python": "#4c72b0"}

# From lane, to lane, median microseconds: from a commit to the first draft pass, on two AMD cores.
TO_THE_DRAFTER = ((0, 1, 110), (1, 2, 380), (2, 2, 120), (2, 3, 500), (3, 4, 100), (4, 4, 150))
# From the last draft pass to the next verify pass.
TO_THE_VERIFIER = ((4, 4, 65), (4, 3, 95), (3, 2, 300), (2, 2, 65), (2, 1, 270), (1, 0, 95), (0, 0, 105))
# In reality several milliseconds.
PASS_WIDTH = 330

LOCAL_LANES = ("verifier: engine thread", "event loop of sybil_local", "drafter: engine thread")
LOCAL_HOPS = ((0, 1), (1, 2)), ((2, 1), (1, 0))


def kind(start: int, end: int) -> str:
    """What a hop between two lanes is."""
    if start == end:
        return "Python"
    return "thread" if {start, end} in ({0, 1}, {3, 4}) else "message"


def draw_pass(axes: Axes, at_us: float, lane: int, label: str) -> float:
    """Draw a model's pass; returns where it ends."""
    axes.barh(lane, PASS_WIDTH, left=at_us, height=0.5, color="#c8c8c8", edgecolor="#555555", hatch="//")
    # Lanes grow downwards: the first lane's label goes above, the last one's below.
    axes.text(at_us + PASS_WIDTH / 2, lane + (-0.5 if lane == 0 else 0.5), label, ha="center", va="center", fontsize=8)
    return at_us + PASS_WIDTH


def draw_hops(axes: Axes, at_us: float, hops: tuple[tuple[int, int, int], ...]) -> float:
    """Draw hops as a path with each one's cost; returns where it ends."""
    for start, end, cost_us in hops:
        arrow = {"arrowstyle": "-|>", "color": COLOURS[kind(start, end)], "lw": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (at_us + cost_us, end), (at_us, start), arrowprops=arrow)
        middle = at_us + cost_us / 2
        if start == end:
            axes.text(middle, start - 0.2, str(cost_us), ha="center", va="center", fontsize=8)
        else:
            side = 1 if end > start else -1
            axes.text(
                middle + 20 * side, (start + end) / 2, str(cost_us), ha="left" if side > 0 else "right", fontsize=8
            )
        at_us += cost_us
    return at_us


def draw_services(axes: Axes) -> None:
    """Draw a round of the three services."""
    at_us = draw_hops(axes, draw_pass(axes, 0, 0, "verify pass"), TO_THE_DRAFTER)
    at_us = draw_hops(axes, draw_pass(axes, at_us, 4, "draft passes"), TO_THE_VERIFIER)
    draw_pass(axes, at_us, 0, "next verify pass")
    total_ms = sum(cost_us for *_, cost_us in TO_THE_DRAFTER + TO_THE_VERIFIER) / 1e3
    axes.set_title(f"Services, one lockstep round: {total_ms:.1f} ms beside the passes (medians, microseconds)")
    finish(axes, LANES)


def draw_local(axes: Axes) -> None:
    """Draw a round of sybil_local, whose hops were not measured one by one: their lengths say nothing."""
    to_drafter, to_verifier = (tuple((start, end, 150) for start, end in hops) for hops in LOCAL_HOPS)
    at_us = draw_pass(axes, 0, 0, "verify pass")
    for hops, lane, label in ((to_drafter, 2, "draft passes"), (to_verifier, 0, "next verify pass")):
        for start, end, cost_us in hops:
            arrow = {"arrowstyle": "-|>", "color": COLOURS["thread"], "lw": 2, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (at_us + cost_us, end), (at_us, start), arrowprops=arrow)
            at_us += cost_us
        at_us = draw_pass(axes, at_us, lane, label)
    axes.set_title("sybil_local: two thread hand-overs each way, no message (not to scale)")
    finish(axes, LOCAL_LANES)


def finish(axes: Axes, lanes: tuple[str, ...]) -> None:
    """Label the lanes, the first on top."""
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.2, -0.8)
    axes.set_xlim(-40, 3400)
    axes.set_xticks([])
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def main() -> None:
    """Write the figure beside this file."""
    mpl.use("Agg")
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(5, 3))
    draw_services(above)
    draw_local(below)
    for name, label in (("message", "message (gRPC)"), ("thread", "thread hand-over"), ("Python", "Python in place")):
        above.plot([], [], color=COLOURS[name], lw=2, label=label)
    above.legend(loc="lower left", fontsize=8, frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
