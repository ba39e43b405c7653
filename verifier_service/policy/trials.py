"""Which way of drafting is fastest while several sessions share the passes: all of them try it together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sybil_engine.core.types import Speculation
from verifier_service.policy.load import SharedPass


@dataclass
class _Standing:
    """What is known of a way.

    Attributes:
        gain: log of its speed; only differences between ways have a meaning.
        trials: how often it was compared with the way in use.
        cost_ns: what its last trials lost.
        last_trial: its number.
    """

    gain: float
    trials: int = 0
    cost_ns: float = 0.0
    last_trial: int = 0


class _Stretch:
    """Passes in a row in one way.

    Args:
        settled: rounds that are not measured: what was drafted in the way before is still judged in them, and drafters
            catch up.

    Attributes:
        rounds: passes that each session took part in.
        elapsed_ns: of all of it.
        work: plain passes that would have committed the same tokens, weighted by what their rows cost.
    """

    def __init__(self, settled: int) -> None:
        self.rounds = self.elapsed_ns = self.work = 0.0
        self._settled = settled
        self._measured_ns = self._measured_work = 0.0

    def add(self, shared: SharedPass, work: float) -> None:
        """Add a pass."""
        self.elapsed_ns += shared.elapsed_ns
        self.work += work
        if self.rounds >= self._settled:
            self._measured_ns += shared.elapsed_ns
            self._measured_work += work
        self.rounds += shared.served / shared.sessions

    @property
    def measured_rounds(self) -> float:
        return self.rounds - self._settled

    @property
    def speed(self) -> float:
        """Log of its work per nanosecond."""
        return math.log(max(self._measured_work, 1e-9) / max(self._measured_ns, 1.0))


class Trials:
    """Compares the ways at one level of load, by the committed tokens of all sessions together.

    One session's drafting slows the passes of the others, so no session's own speed tells what a way is worth. All
    adaptive sessions go the same way at a time. A trial is a stretch of a rival between two stretches of the way in
    use. How many trials there are is a matter of what they lose: a small share of the time at most.

    Args:
        priors: log of each way's expected speed over plain decoding.
    """

    _SETTLED_ROUNDS = 3
    _ROUNDS = 15
    # Few sessions need more rounds for as many tokens.
    _LEAST_SESSION_PASSES = 120
    # After this share of its rounds a stretch may end, if its log speed lags by so much.
    _EARLY = 1 / 3
    _HOPELESS = 0.2
    # Standard deviation of a way's log speed before its first trial; each trial makes it smaller.
    _SPREAD = 0.2
    # Plain decoding's is larger: the priors say how fast the others are in comparison.
    _PLAIN_SPREAD = 0.6
    _LEAST_WEIGHT = 0.15
    # The prior's weight, in trials.
    _PRIOR_COUNTS_FOR = 0.5
    # A way must be this much faster (log) to be taken.
    _ADVANTAGE = 0.01
    # Share of the time that trials may lose; and what the first ones may lose at once, in rounds.
    _SHARE_LOST = 0.01
    _FIRST_CREDIT_ROUNDS = 12
    _LEAST_LOSS = 0.01
    # Ways that are surely slower are tried when trials may lose this many times as much.
    _SELDOM = 4

    def __init__(self, priors: Mapping[Speculation, float]) -> None:
        self._priors = dict(priors)
        self._standings = {way: _Standing(gain) for way, gain in priors.items()}
        self._home = max(priors, key=priors.__getitem__)
        self._rival: Speculation | None = None
        self._stretch = _Stretch(self._SETTLED_ROUNDS)
        # The last stretch of the way in use, and the rival's after it.
        self._before: _Stretch | None = None
        self._tried: tuple[Speculation, _Stretch] | None = None
        self._trials = 0
        self._credit_ns: float | None = None
        self._row_share: float | None = None

    @property
    def way(self) -> Speculation:
        """What all adaptive sessions do now."""
        return self._rival or self._home

    @property
    def best(self) -> Speculation:
        """The fastest way so far."""
        return self._home

    def speedup(self, way: Speculation) -> float:
        """Log of a way's speed over plain decoding."""
        return self._gain(way) - self._gain(Speculation.OFF)

    def measured(self, way: Speculation) -> bool:
        """Whether a way was compared with others, not only expected to be fast or slow."""
        return self._standings[way].trials > 0 or (way is self._home and self._trials > 0)

    def saw(self, shared: SharedPass, row_share: float) -> None:
        """Learn from a pass.

        Args:
            row_share: what a row adds to a pass, as a share of a pass of a single row.
        """
        if self._row_share is None:
            # Not changed during a trial: times of passes depend on the way.
            self._row_share = row_share
        if self._credit_ns is not None:
            self._credit_ns += self._SHARE_LOST * shared.elapsed_ns
        plain_pass = 1 + self._row_share * (shared.sessions - 1)
        self._stretch.add(shared, shared.tokens / shared.sessions * plain_pass)
        rounds = max(self._ROUNDS, self._LEAST_SESSION_PASSES / shared.sessions)
        if self._stretch.measured_rounds >= rounds or (self._rival and self._hopeless(rounds)):
            self._end_stretch()

    def pause(self) -> None:
        """Measure nothing for a while, and then begin anew."""
        self._rival = self._before = self._tried = self._row_share = None
        self._stretch = _Stretch(self._SETTLED_ROUNDS)

    def _hopeless(self, rounds: float) -> bool:
        return (
            self._before is not None
            and self._stretch.measured_rounds >= self._EARLY * rounds
            and self._stretch.speed < self._before.speed - self._HOPELESS
        )

    def _end_stretch(self) -> None:
        stretch = self._stretch
        if self._rival:
            self._tried = self._rival, stretch
            self._rival = None
            self._stretch = _Stretch(self._SETTLED_ROUNDS)
            return
        if self._credit_ns is None:
            self._credit_ns = self._FIRST_CREDIT_ROUNDS * stretch.elapsed_ns / stretch.rounds
        if self._tried and self._before:
            self._learn(*self._tried, self._before, stretch)
        self._tried, self._before = None, stretch
        self._go_on()

    def _go_on(self) -> None:
        """Choose the next stretch's way."""
        fastest = max(filter(self.measured, self._standings), key=self._gain, default=self._home)
        if self._lead(fastest) > self._ADVANTAGE:
            self.pause()
            # All trials so far were comparisons with it.
            former = self._standings[self._home]
            former.trials = max(1, former.trials)
            self._home = fastest
            return
        self._rival = self._choose_rival()
        self._stretch = _Stretch(self._SETTLED_ROUNDS if self._rival else 0)

    def _choose_rival(self) -> Speculation | None:
        """A way that may be faster than the one in use, if a trial's loss is allowed."""
        others = [way for way in self._standings if way is not self._home]
        hopes = {way: self._lead(way) + self._spread(way) for way in others}
        promising = [way for way in others if hopes[way] > 0]
        if promising:
            return max(filter(self._affordable, promising), key=hopes.__getitem__, default=None)
        oldest = min(others, key=lambda way: self._standings[way].last_trial)
        return oldest if self._affordable(oldest, self._SELDOM) else None

    def _spread(self, way: Speculation) -> float:
        trials = self._standings[way].trials
        return self._PLAIN_SPREAD if way is Speculation.OFF and not trials else self._SPREAD / (1 + trials)

    def _affordable(self, way: Speculation, times: float = 1) -> bool:
        assert self._before
        assert self._credit_ns is not None
        expected_ns = self._before.elapsed_ns * max(self._LEAST_LOSS, -math.expm1(self._lead(way)))
        return times * max(expected_ns, self._standings[way].cost_ns) <= self._credit_ns

    def _gain(self, way: Speculation) -> float:
        standing = self._standings[way]
        counted = self._PRIOR_COUNTS_FOR + standing.trials
        return (self._PRIOR_COUNTS_FOR * self._priors[way] + standing.trials * standing.gain) / counted

    def _lead(self, way: Speculation) -> float:
        """Log of a way's speed over that of the way in use."""
        return self._gain(way) - self._gain(self._home)

    def _learn(self, rival: Speculation, tried: _Stretch, before: _Stretch, after: _Stretch) -> None:
        """Learn from a trial, and charge what it lost."""
        self._trials += 1
        home_speed = (before.speed + after.speed) / 2
        # Changing over costs time, too: at the trial's beginning and after its end.
        lost_ns = max(0.0, tried.elapsed_ns + after.elapsed_ns - (tried.work + after.work) / math.exp(home_speed))
        assert self._credit_ns is not None
        self._credit_ns -= lost_ns
        standing = self._standings[rival]
        standing.trials, standing.last_trial = standing.trials + 1, self._trials
        weight = max(self._LEAST_WEIGHT, 1 / standing.trials)
        standing.gain += weight * (self._gain(self._home) + tried.speed - home_speed - standing.gain)
        standing.cost_ns += weight * (lost_ns - standing.cost_ns)
