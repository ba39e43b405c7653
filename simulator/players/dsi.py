"""DSI: several replicas of the target, so that the latest drafts are always being verified."""

import math

from simulator.players.player import Outcome
from simulator.point import Point
from simulator.trace import Trace


def dsi(replicas: int, trace: Trace, point: Point) -> Outcome:
    """A replica starts a pass whenever a few more tokens are drafted; the first starts without any. The pass that
    covers the first wrong token yields its correction, and everything after it is dropped.

    The number of tokens is the smallest that leaves a replica free each time.

    Source: Timor et al. 2024 (arXiv 2405.14105).
    """
    drafts_per_pass = point.verify_ms / point.draft_ms if point.draft_ms else 1.0
    tokens_per_launch = max(1, math.ceil(drafts_per_pass / replicas))
    now_ms = idle_ms = 0.0
    position = passes = 0
    while position < len(trace):
        accepted = trace.own_rejections[position] - position
        launches = math.ceil(accepted / tokens_per_launch)
        last_launch_ms = 0.0
        if launches:
            # The first pass starts at once. The drafter's speed decides whether the second starts before its end.
            interval_ms = tokens_per_launch * point.draft_ms
            idle_ms += max(0.0, point.rtt_ms + interval_ms - point.verify_ms)
            last_launch_ms = point.rtt_ms + launches * interval_ms
        now_ms += last_launch_ms + point.pass_ms(tokens_per_launch if launches else 0)
        position += accepted + 1
        passes += launches + 1
    return Outcome(len(trace), passes, now_ms, idle_ms)
