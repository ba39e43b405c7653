"""AMUSD: both models run all the time, and the verifier judges whatever has been drafted."""

from simulator.players.player import Outcome
from simulator.point import Point
from simulator.trace import Trace


def amusd(window_tokens: int, trace: Trace, point: Point) -> Outcome:
    """A pass judges every drafted token there is, at least one. The token that it yields after an accepted window is
    compared with the drafter's own guess: if they differ, all that is in flight dies.

    Published for greedy decoding. At other temperatures it is played with the ratio test, where the drafter's guess is
    an independent draw.

    Source: McDanel 2024 (arXiv 2410.17375).
    """
    rejections, matches = trace.own_rejections, trace.bonus_matched
    now_ms = idle_ms = drafting_since_ms = 0.0
    position = start = passes = 0

    def drafted_ms(token_position: int) -> float:
        return drafting_since_ms + (token_position - start + 1) * point.draft_ms

    while position < len(trace):
        waited_ms = max(0.0, drafted_ms(position) + point.one_way_ms - now_ms)
        now_ms += waited_ms
        idle_ms += waited_ms
        end = position + 1
        while end - position < window_tokens and drafted_ms(end) + point.one_way_ms <= now_ms:
            end += 1
        now_ms += point.pass_ms(end - position)
        passes += 1
        told_ms = now_ms + point.one_way_ms
        if rejections[position] < end:
            position = rejections[position] + 1
            alive = False
        else:
            # If the token is not drafted yet when the commit comes, the drafter takes it from the commit.
            alive = end < len(trace) and matches[end] and drafted_ms(end) <= told_ms
            position = end + 1
        if not alive:
            drafting_since_ms, start = told_ms, position
    return Outcome(len(trace), passes, now_ms, idle_ms)
