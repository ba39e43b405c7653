"""SSD, also called Saguaro: while a window is judged, a continuation is drafted for each of its likely outcomes."""

from collections.abc import Sequence

import numpy as np

from simulator.players.player import Outcome
from simulator.point import Point
from simulator.trace import RANKS, Trace

UNIFORM_GUESSES = 3


def ssd(fan_outs: Sequence[int], trace: Trace, point: Point) -> Outcome:
    """An outcome is the number of accepted tokens and the token after them. For each number of accepted tokens, the
    drafter prepares windows after its most likely next tokens. If the outcome is among them, its window is sent at
    once; if not, one is drafted while the verifier waits.

    Preparing takes one pass that feeds the window in flight, and one for each token of the next windows, for all
    outcomes at once. A pass's time does not depend on the number of outcomes. A miss ends preparing at once.

    Without guesses it is draft-then-verify: one model works while the other waits.

    Args:
        fan_outs: [window + 1], guesses prepared after each number of accepted tokens.

    Source: Kumar, Dao, May 2026 (arXiv 2603.03251), without its sampling that trades acceptance for hits. Without
        guesses: Leviathan, Kalman, Matias 2023 (arXiv 2211.17192); Chen et al. 2023 (arXiv 2302.01318).
    """
    window_tokens = len(fan_outs) - 1
    rejections = trace.own_rejections
    drafting_ms = window_tokens * point.draft_ms
    preparing_ms = drafting_ms + point.draft_ms
    idle_ms = start_ms = drafting_ms + point.one_way_ms
    end_ms = 0.0
    position = passes = 0
    while position < len(trace):
        end_ms = start_ms + point.pass_ms(window_tokens)
        passes += 1
        accepted = min(rejections[position] - position, window_tokens)
        position += accepted + 1
        if position >= len(trace):
            break
        ranks = trace.bonus_ranks if accepted == window_tokens else trace.correction_ranks
        told_ms = end_ms + point.one_way_ms
        if ranks[position - 1] < fan_outs[accepted]:
            sent_ms = max(told_ms, start_ms - point.one_way_ms + preparing_ms)
        else:
            sent_ms = told_ms + drafting_ms
        start_ms = sent_ms + point.one_way_ms
        idle_ms += start_ms - end_ms
    return Outcome(len(trace), passes, end_ms, idle_ms)


def uniform_fan_outs(window_tokens: int) -> tuple[int, ...]:
    """Three guesses after each number of accepted tokens."""
    return (UNIFORM_GUESSES,) * (window_tokens + 1)


def geometric_fan_outs(window_tokens: int, acceptance_rate: float, exponent: float) -> tuple[int, ...]:
    """The same total as three guesses each, divided by the probability of each number of accepted tokens.

    If F guesses miss with probability F**-exponent, misses are fewest when fan-outs are proportional to the outcome's
    probability to the power 1 / (1 + exponent). A fan-out is at most 8, as a trace holds no more guesses.

    Args:
        acceptance_rate: below 1.

    Source: Kumar, Dao, May 2026 (capped geometric series).
    """
    chances = [acceptance_rate**accepted * (1 - acceptance_rate) for accepted in range(window_tokens)]
    chances.append(acceptance_rate**window_tokens)
    weights = [chance ** (1 / (1 + exponent)) for chance in chances]
    budget = UNIFORM_GUESSES * (window_tokens + 1)
    fan_outs = [0] * len(weights)
    # Whichever outcome has the fewest guesses for its weight gets the next one.
    while sum(fan_outs) < min(budget, RANKS * len(fan_outs)):
        growing = [index for index, fan_out in enumerate(fan_outs) if fan_out < RANKS]
        fan_outs[max(growing, key=lambda index: weights[index] / (fan_outs[index] + 0.5))] += 1
    return tuple(fan_outs)


def miss_exponent(traces: Sequence[Trace]) -> float:
    """The exponent of the power law that fits best how often F guesses miss, F from 2 to 8."""
    ranks = np.concatenate([np.where(each.accepted, each.bonus_ranks, each.correction_ranks) for each in traces])
    guesses = np.arange(2, RANKS + 1)
    # One imagined miss keeps a trace that never misses finite.
    misses = ((ranks >= guesses[:, None]).sum(axis=1) + 1) / (len(ranks) + 1)
    return -float(np.log(misses) @ np.log(guesses) / (np.log(guesses) @ np.log(guesses)))
