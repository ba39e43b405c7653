"""Draws docs/figures/hops.png, the hops of one lockstep round: `python docs/figures/hops.py`."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

LANES = ("verifier: engine thread", "verifier: event loop", "coordinator: event loop", "drafter: event loop")
LANES += ("drafter: engine thread",)
COLOURS = {"message (gRPC)": "#c44e52", "thread hand-over": "#dd8452", "Python in place": "#4c72b0"}

# From lane, to lane, median microseconds: from a commit to the first draft pass, on two AMD cores.
TO_THE_DRAFTER = ((0, 1, 120), (1, 2, 315), (2, 2, 155), (2, 3, 250), (3, 4, 140), (4, 4, 185))
# From the last draft pass to the next verify pass.
TO_THE_VERIFIER = ((4, 4, 65), (4, 3, 90), (3, 2, 240), (2, 2, 80), (2, 1, 210), (1, 0, 170), (0, 0, 90))
# In reality several milliseconds.
PASS_WIDTH = 330

# Not measured one by one: their lengths say nothing.
LOCAL_LANES = ("sybil_local: verifier's thread", "sybil_local: event loop", "sybil_local: drafter's thread")
LOCAL_HOPS = ((0, 1, 150), (1, 2, 150)), ((2, 1, 150), (1, 0, 150))

Hops = tuple[tuple[int, int, int], ...]


def draw_pass(axes: Axes, at_us: float, lane: int, label: str) -> float:
    """Draw a model's pass; returns where it ends."""
    axes.barh(lane, PASS_WIDTH, left=at_us, height=0.5, color="#c8c8c8", edgecolor="#555555", hatch="//")
    # Lanes grow downwards: the first lane's label goes above, the last one's below.
    axes.text(at_us + PASS_WIDTH / 2, lane + (-0.5 if lane == 0 else 0.5), label, ha="center", va="center", fontsize=8)
    return at_us + PASS_WIDTH


def draw_hops(axes: Axes, at_us: float, hops: Hops, lanes: tuple[str, ...], *, costs: bool) -> float:
    """Draw hops as a path, with each one's cost if `costs`; returns where it ends."""
    for start, end, cost_us in hops:
        one_process = lanes[start].partition(":")[0] == lanes[end].partition(":")[0]
        kind = "Python in place" if start == end else "thread hand-over" if one_process else "message (gRPC)"
        arrow = {"arrowstyle": "-|>", "color": COLOURS[kind], "lw": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (at_us + cost_us, end), (at_us, start), arrowprops=arrow)
        if costs:
            # Beside an arrow between lanes, above one within a lane.
            right, up = (0, 0.2) if start == end else (75 if end > start else -75, 0)
            at = at_us + cost_us / 2 + right, (start + end) / 2 - up
            axes.text(*at, str(cost_us), ha="center", va="center", fontsize=8)
        at_us += cost_us
    return at_us


def draw_round(axes: Axes, title: str, lanes: tuple[str, ...], hops: tuple[Hops, Hops], *, costs: bool) -> None:
    """Draw a round: to the drafter in the last lane, and back to the verifier in the first."""
    to_the_drafter, to_the_verifier = hops
    at_us = draw_hops(axes, draw_pass(axes, 0, 0, "verify pass"), to_the_drafter, lanes, costs=costs)
    at_us = draw_pass(axes, at_us, len(lanes) - 1, "draft passes")
    draw_pass(axes, draw_hops(axes, at_us, to_the_verifier, lanes, costs=costs), 0, "next verify pass")
    axes.set_title(title)
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.2, -0.8)
    axes.set_xlim(-40, 3400)
    axes.set_xticks([])
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def main() -> None:
    """Write the figure beside this file."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(5, 3))
    total_ms = sum(cost_us for *_, cost_us in TO_THE_DRAFTER + TO_THE_VERIFIER) / 1e3
    services = f"Services, one lockstep round: {total_ms:.1f} ms beside the passes (medians, microseconds)"
    draw_round(above, services, LANES, (TO_THE_DRAFTER, TO_THE_VERIFIER), costs=True)
    local = "sybil_local: two thread hand-overs each way, no message (not to scale)"
    draw_round(below, local, LOCAL_LANES, LOCAL_HOPS, costs=False)
    for kind, colour in COLOURS.items():
        above.plot([], [], color=colour, lw=2, label=kind)
    above.legend(loc="lower left", fontsize=8, frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
