"""When a verify pass starts: how many drafted tokens are worth waiting for."""

from dataclasses import dataclass
from typing import Protocol

from simulator.point import Point


@dataclass(frozen=True, slots=True)
class Wait:
    """Until when a pass waits: for this many drafted tokens, but no longer than this."""

    tokens: int
    patience_ms: float


class LaunchRule(Protocol):
    """Decides the wait before a pass."""

    def wait(self, point: Point, seen: "Seen", ready_tokens: int) -> Wait:
        """What the next pass waits for, when so many drafted tokens are there."""


# A drafter that takes twice as long as it should is waited for no longer.
_PATIENCE = 2.0
_MOST_WAIT_TOKENS = 16


class Seen:
    """What a session knows about itself.

    Attributes:
        acceptance_rate: of the trunk's tokens.
        tokens_per_ms: committed since the session began; 0 before the first pass.
    """

    _PRIOR = 0.7
    _WEIGHT = 0.05

    def __init__(self) -> None:
        self.acceptance_rate = self._PRIOR
        self.tokens_per_ms = 0.0

    def saw(self, tested_tokens: int, accepted_tokens: int) -> None:
        """Learn from a pass over so many trunk tokens up to the first wrong one."""
        for index in range(tested_tokens):
            self.acceptance_rate += self._WEIGHT * ((1.0 if index < accepted_tokens else 0.0) - self.acceptance_rate)


@dataclass(frozen=True, slots=True)
class BestPass:
    """Wait for the window whose pass commits the most tokens per time: the launch rule at its simplest.

    A pass over w tokens commits (1 - a^(w+1)) / (1 - a) on average and ends a pass time after they are here.
    """

    def wait(self, point: Point, seen: Seen, ready_tokens: int) -> Wait:
        """See `LaunchRule.wait`."""

        def rate(window_tokens: int) -> float:
            arrival_ms = _arrival_ms(point, ready_tokens, window_tokens)
            return _committed(seen.acceptance_rate, window_tokens) / (point.pass_ms(window_tokens) + arrival_ms)

        tokens = max(_windows(ready_tokens), key=rate)
        return Wait(tokens, _PATIENCE * _arrival_ms(point, ready_tokens, tokens))


@dataclass(frozen=True, slots=True)
class LongRun:
    """Wait for a token only if it is worth more than what the same time yields on average.

    A pass that starts early commits less, but while it runs the drafter goes on, and if all that it guessed is right,
    the pass after it has a full window. So a window of w tokens is worth what it commits, plus the chance of such a hit
    times what a hit is worth more than a miss, less the wait for it at the session's own rate of tokens per time.

    Args:
        most_tokens: the longest window.
    """

    most_tokens: int = _MOST_WAIT_TOKENS

    def wait(self, point: Point, seen: Seen, ready_tokens: int) -> Wait:
        """See `LaunchRule.wait`."""
        acceptance_rate = seen.acceptance_rate
        ahead = _drafted_during_a_pass(point, self.most_tokens)
        hit_chance = acceptance_rate ** (ahead + 1)

        def rate_of_misses(window_tokens: int) -> float:
            """Tokens per ms if every miss is followed by a wait for so many."""
            hits = acceptance_rate ** (window_tokens + 1) / (1 - hit_chance) if hit_chance < 1 else 0.0
            committed = _committed(acceptance_rate, window_tokens) + hits * _committed(acceptance_rate, ahead)
            miss_ms = point.pass_ms(window_tokens) + _arrival_ms(point, 0, window_tokens)
            return committed / (miss_ms + hits * point.pass_ms(ahead))

        rate = max(seen.tokens_per_ms, *map(rate_of_misses, _windows(0, self.most_tokens)))
        hit_worth = 0.0
        if hit_chance < 1:
            hit_worth = max(0.0, _committed(acceptance_rate, ahead) - rate * point.pass_ms(ahead)) / (1 - hit_chance)

        def worth(window_tokens: int) -> float:
            spent_ms = _arrival_ms(point, ready_tokens, window_tokens) + point.pass_ms(window_tokens)
            hit = acceptance_rate ** (window_tokens + 1) * hit_worth
            return _committed(acceptance_rate, window_tokens) + hit - rate * spent_ms

        tokens = max(_windows(ready_tokens, self.most_tokens), key=worth)
        return Wait(tokens, _PATIENCE * _arrival_ms(point, ready_tokens, tokens))


def _windows(ready_tokens: int, most_tokens: int = _MOST_WAIT_TOKENS) -> range:
    return range(ready_tokens, max(ready_tokens, most_tokens) + 1)


def _drafted_during_a_pass(point: Point, most_tokens: int) -> int:
    if point.draft_ms * most_tokens <= point.verify_ms:
        return most_tokens
    return int(point.verify_ms / point.draft_ms)


def _committed(acceptance_rate: float, window_tokens: int) -> float:
    if acceptance_rate >= 1:
        return window_tokens + 1.0
    return (1 - acceptance_rate ** (window_tokens + 1)) / (1 - acceptance_rate)


def _arrival_ms(point: Point, ready_tokens: int, window_tokens: int) -> float:
    """Time until the rest of a window is here: with some ready, drafting goes on already."""
    if window_tokens <= ready_tokens:
        return 0.0
    return (0.0 if ready_tokens else point.round_trip_ms) + (window_tokens - ready_tokens) * point.draft_ms
