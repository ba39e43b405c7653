"""PEARL: the drafter never waits, and the position after a window is judged with the next window."""

from simulator.players.player import Outcome
from simulator.point import Point
from simulator.trace import Trace


def pearl(window_tokens: int, trace: Trace, point: Point) -> Outcome:
    """Pre-verify: after a rejection a pass on the committed text alone judges the first token of the window that is
    being drafted meanwhile. Post-verify: a pass judges one window while the next one is drafted, and yields no token of
    its own when all are accepted. A rejection ends everything in flight.

    Published as rounds in which both sides wait for each other. Here blocks and verdicts are pushed, which can only be
    faster.

    Source: Liu et al. 2024 (arXiv 2408.11850).
    """
    rejections = trace.own_rejections
    now_ms = idle_ms = drafting_since_ms = 0.0
    position = passes = 0

    def arrival_ms(drafted_tokens: int) -> float:
        return drafting_since_ms + drafted_tokens * point.draft_ms + point.one_way_ms

    while position < len(trace):
        start = position
        waited_ms = max(0.0, arrival_ms(1) - (now_ms + point.verify_ms))
        now_ms += point.verify_ms + waited_ms
        idle_ms += waited_ms
        passes += 1
        position = start + 1
        alive = rejections[start] > start
        # Pre-verify has judged one token of the first window already; a window of one token is used up.
        end = start + window_tokens if window_tokens > 1 else start + 2
        while alive and position < len(trace):
            waited_ms = max(0.0, arrival_ms(end - start) - now_ms)
            now_ms += waited_ms + point.pass_ms(end - position)
            idle_ms += waited_ms
            passes += 1
            alive = rejections[position] >= end
            position = end if alive else rejections[position] + 1
            end += window_tokens
        drafting_since_ms = now_ms + point.one_way_ms
    return Outcome(len(trace), passes, now_ms, idle_ms)
