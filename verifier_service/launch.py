"""When a pass is launched: how many drafted tokens are worth waiting for, and how far ahead drafting pays."""

import math
from dataclasses import dataclass
from typing import Protocol

from sybil_engine.types import SessionOpen, Speculation


@dataclass(frozen=True, slots=True)
class Wait:
    """Until when a session's next pass waits: for this many drafted tokens, but no longer than this."""

    tokens: int
    patience_ns: int


NO_WAIT = Wait(0, 0)


class MovingMean:
    """A mean that forgets: the newest value has a fixed weight."""

    def __init__(self, prior: float, weight: float) -> None:
        self.value = prior
        self._weight = weight

    def add(self, value: float) -> None:
        self.value += self._weight * (value - self.value)


class Pace:
    """What is measured of one session: pass time, draft time a token, round trip, acceptance."""

    # Before anything is measured: a drafter ten times as fast as its target, half a millisecond away.
    _PRIOR_PASS_NS = 10e6
    _PRIOR_ROUND_TRIP_NS = 0.5e6
    _PRIOR_ACCEPTANCE_RATE = 0.7

    def __init__(self) -> None:
        self.pass_ns = MovingMean(self._PRIOR_PASS_NS, weight=0.2)
        self.draft_token_ns = MovingMean(self._PRIOR_PASS_NS / 10, weight=0.2)
        self.round_trip_ns = MovingMean(self._PRIOR_ROUND_TRIP_NS, weight=0.2)
        self.acceptance_rate = MovingMean(self._PRIOR_ACCEPTANCE_RATE, weight=0.05)

    def saw_block(self, tokens: int, draft_ns: int, since_miss_ns: int | None) -> None:
        """Learn from drafted tokens.

        Args:
            draft_ns: time spent drafting them.
            since_miss_ns: if they are the first after a commit that left nothing drafted, the time since it.
        """
        self.draft_token_ns.add(draft_ns / tokens)
        if since_miss_ns is not None:
            self.round_trip_ns.add(max(0, since_miss_ns - draft_ns))

    def saw_pass(self, pass_ns: int, tested_tokens: int, accepted_tokens: int) -> None:
        """Learn from a verify pass."""
        self.pass_ns.add(pass_ns)
        for index in range(tested_tokens):
            self.acceptance_rate.add(1.0 if index < accepted_tokens else 0.0)

    def arrival_ns(self, ready_tokens: int, missing_tokens: int) -> float:
        """Expected time from a commit until missing tokens are here: with some ready, drafting goes on already."""
        round_trip_ns = 0 if ready_tokens else self.round_trip_ns.value
        return round_trip_ns + missing_tokens * self.draft_token_ns.value


class LaunchRule(Protocol):
    """One session's rule."""

    pace: Pace
    max_window_tokens: int

    def wait(self, ready_tokens: int) -> Wait:
        """What the pass after a commit waits for, when that commit left `ready_tokens` drafted."""

    def draft_budget(self) -> int:
        """How far ahead of a commit drafting is worth while."""


class FixedWindow:
    """Draft-then-verify: wait for the whole window, and let nothing be drafted beyond it. No window: plain decoding."""

    # A drafter that takes many times as long as it should is late or dead.
    _PATIENCE = 10
    _LEAST_PATIENCE_NS = 100_000_000

    def __init__(self, window_tokens: int) -> None:
        self.pace = Pace()
        self.max_window_tokens = window_tokens

    def wait(self, ready_tokens: int) -> Wait:
        arrival_ns = self.pace.arrival_ns(ready_tokens, self.max_window_tokens - ready_tokens)
        return Wait(self.max_window_tokens, max(self._LEAST_PATIENCE_NS, int(self._PATIENCE * arrival_ns)))

    def draft_budget(self) -> int:
        return self.max_window_tokens


class LearnedWindow:
    """Pipelined: wait for another drafted token while that raises the tokens committed per unit of time.

    With acceptance a, a pass that judges w tokens commits (1 - a^(w+1)) / (1 - a) of them on average, and takes a pass
    time plus the wait until the w tokens are here. The w with the best quotient is worth waiting for.
    """

    _PATIENCE = 2
    # A token is drafted ahead only while it has this chance to be reached by the commits.
    _LEAST_SURVIVAL = 0.1

    def __init__(self, max_window_tokens: int) -> None:
        self.pace = Pace()
        self.max_window_tokens = max_window_tokens

    def wait(self, ready_tokens: int) -> Wait:
        ready_tokens = min(ready_tokens, self.max_window_tokens)
        acceptance_rate = self.pace.acceptance_rate.value
        pass_ns = self.pace.pass_ns.value

        def arrival_ns(window_tokens: int) -> float:
            missing_tokens = window_tokens - ready_tokens
            return self.pace.arrival_ns(ready_tokens, missing_tokens) if missing_tokens else 0.0

        def committed_per_ns(window_tokens: int) -> float:
            committed_tokens = sum(acceptance_rate**depth for depth in range(window_tokens + 1))
            return committed_tokens / (pass_ns + arrival_ns(window_tokens))

        # Nothing comes beyond the budget.
        most_tokens = max(ready_tokens, min(self.max_window_tokens, self.draft_budget()))
        window_tokens = max(range(ready_tokens, most_tokens + 1), key=committed_per_ns)
        return Wait(window_tokens, int(self._PATIENCE * arrival_ns(window_tokens)))

    def draft_budget(self) -> int:
        acceptance_rate = min(max(self.pace.acceptance_rate.value, 0.1), 0.95)
        worth_while = math.ceil(math.log(self._LEAST_SURVIVAL) / math.log(acceptance_rate))
        return min(worth_while, 2 * self.max_window_tokens)


_LOCKSTEP_WINDOW_TOKENS = 4


def launch_rule(opening: SessionOpen, max_window_tokens: int) -> LaunchRule:
    """The rule that a session asks for.

    Args:
        max_window_tokens: the most that the service lets one pass judge.
    """
    match opening.speculation:
        case Speculation.OFF:
            return FixedWindow(0)
        case Speculation.LOCKSTEP:
            return FixedWindow(min(opening.window_tokens or _LOCKSTEP_WINDOW_TOKENS, max_window_tokens))
        case Speculation.PIPELINED:
            return LearnedWindow(min(opening.window_tokens or max_window_tokens, max_window_tokens))
