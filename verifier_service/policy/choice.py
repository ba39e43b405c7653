"""Which way of drafting is fastest, as a verifier finds by trying."""

import math
from dataclasses import dataclass

from sybil_engine.core.moving_mean import MovingMean
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.types import Speculation
from verifier_service.policy.load import Load, SharedPass, sessions_at
from verifier_service.policy.trials import Trials

WAYS = (Speculation.PIPELINED, Speculation.LOCKSTEP, Speculation.HEDGED)

# Each way's expected log speed-up over the first, before any comparison. On a shared processor, drafting ahead slows
# the verify passes that should hide it; elsewhere, hedges lose what their rows cost.
_PRIORS_APART = {Speculation.PIPELINED: 0.0, Speculation.LOCKSTEP: -0.2, Speculation.HEDGED: 0.15}
_PRIORS_SHARED = {Speculation.PIPELINED: 0.0, Speculation.LOCKSTEP: 0.2, Speculation.HEDGED: -0.05}
# In company: each way's expected log speed-up over the best window, if drafts took no time.
_COMPANY_APART = {Speculation.PIPELINED: 0.0, Speculation.LOCKSTEP: -0.15, Speculation.HEDGED: 0.05}
_COMPANY_SHARED = {Speculation.PIPELINED: -0.3, Speculation.LOCKSTEP: -0.15, Speculation.HEDGED: -0.35}


@dataclass
class _Record:
    """What is known of one way.

    Attributes:
        advantage: log of its speed; only differences between ways have a meaning.
        comparisons: how often it was compared with another way.
        last_trial: number of the stretch that last used it.
    """

    advantage: float = 0.0
    comparisons: int = 0
    last_trial: int = 0


class Choice:
    """Which way of drafting is fastest: learned from all adaptive sessions of a verifier.

    A session's speed depends on its text more than on the way, so only consecutive stretches of one session are
    compared. Most stretches use the fastest way so far. Another way is tried now and then: often while it may still be
    the fastest, rarely afterwards. So the choice follows changes in load and links, and drafters that die or return.

    Attributes:
        gains: log speed-up over plain decoding of sampled sessions (False) and of greedy ones (True).
    """

    _TRY_EVERY = 3
    _TRY_SLOWER_EVERY = 20
    # Standard deviation of the log ratio of two consecutive stretches' speeds that is due to the text.
    _SPREAD = 0.2
    _LEAST_WEIGHT = 0.1
    # The prior's weight, in comparisons: two stretches differ by chance more than two ways do.
    _PRIOR_COUNTS_FOR = 3
    # Hedging was measured at 1.03 to 1.3 of pipelined speed where rows cost nothing, and at 0.96 where a row costs
    # 2.8 % of a pass (docs/log.md). The prior is a line through both, but no lower than that of lockstep.
    _LOST_TO_ROWS = 7.0
    _LEAST_PRIOR = -0.2

    _PRIOR_GAIN = math.log(1.5)
    _PRIOR_ACCEPTANCE_RATE = 0.75
    _LONGEST_EXPECTED_WINDOW = 8
    _GAIN_WEIGHT = 0.05
    _PLAIN_EVERY = 200
    _DRAFT_ANYWAY_EVERY = 8

    def __init__(
        self,
        *,
        shares_processor: bool = False,
        pass_times: PassTimes | None = None,
        alone_times: PassTimes | None = None,
        load: Load | None = None,
    ) -> None:
        """
        Args:
            shares_processor: whether drafting takes time from verify passes.
            pass_times: tells what a row costs; None: rows cost nothing.
            alone_times: of passes during which no drafter works ahead; None: the same.
            load: of the verifier; None: one session at a time.
        """
        self.load = load or Load()
        self._alone_times = alone_times
        self._trials: dict[int, Trials] = {}
        self._last_level = self.load.level
        # Of drafted tokens, over all adaptive sessions.
        self.acceptance_rate = MovingMean(self._PRIOR_ACCEPTANCE_RATE, self._GAIN_WEIGHT)
        self._shares_processor = shares_processor
        self._pass_times = pass_times or PassTimes()
        self._records = {way: _Record() for way in WAYS}
        self._stretches = 0
        self.gains = {greedy: MovingMean(self._PRIOR_GAIN, self._GAIN_WEIGHT) for greedy in (False, True)}
        self._openings = 0
        self._last_plain: int | None = None

    @property
    def best(self) -> Speculation:
        """The fastest way so far; with few comparisons the prior decides."""
        return max(WAYS, key=self._advantage)

    def next(self, before: Speculation | None = None) -> Speculation:
        """The way of the next stretch of a session.

        Args:
            before: the way of its last one. Another way is tried only after the fastest, to be compared with it.
        """
        best = self.best
        if before not in (None, best):
            return best
        self._stretches += 1
        others = [way for way in WAYS if way is not best]
        promising = [way for way in others if self._may_be_fastest(way)]
        chosen = best
        if promising and self._stretches % self._TRY_EVERY == 0:
            chosen = min(promising, key=lambda way: self._records[way].last_trial)
        elif self._stretches % self._TRY_SLOWER_EVERY == 0:
            chosen = min(others, key=lambda way: self._records[way].last_trial)
        self._records[chosen].last_trial = self._stretches
        return chosen

    def _may_be_fastest(self, way: Speculation) -> bool:
        """Whether a way's upper confidence bound reaches the fastest way: it is little known, or nearly as fast."""
        return self.relative_speed(way) + self._SPREAD / (1 + self._records[way].comparisons) > 0

    def relative_speed(self, way: Speculation) -> float:
        """Log of a way's speed over the fastest way's; never above 0."""
        return self._advantage(way) - self._advantage(self.best)

    def _advantage(self, way: Speculation) -> float:
        record = self._records[way]
        counted = self._PRIOR_COUNTS_FOR + record.comparisons
        return (self._PRIOR_COUNTS_FOR * self._prior(way) + record.comparisons * record.advantage) / counted

    def _prior(self, way: Speculation) -> float:
        """A way's expected log speed-up over the first, before they are compared."""
        if self._shares_processor:
            return _PRIORS_SHARED[way]
        lost = self._LOST_TO_ROWS * self._pass_times.row_share if way is Speculation.HEDGED else 0.0
        return max(self._LEAST_PRIOR, _PRIORS_APART[way] - lost)

    def compared_with_others(self, way: Speculation) -> bool:
        """Whether a way was measured, not only expected to be fast or slow."""
        return self._records[way].comparisons > 0

    def begins_drafting(self, greedy: bool) -> bool:
        """Whether a new session drafts from the start. Where drafting rarely pays, one session in eight still does."""
        self._openings += 1
        return self.gains[greedy].value > 0 or self._openings % self._DRAFT_ANYWAY_EVERY == 0

    @property
    def wants_plain(self) -> bool:
        """Whether a stretch without drafts is due, to measure how fast plain decoding really is."""
        return self._last_plain is None or self._stretches - self._last_plain > self._PLAIN_EVERY

    def saw_plain(self) -> None:
        """Note that there was a stretch without drafts."""
        self._last_plain = self._stretches

    def compared(self, way: Speculation, other: Speculation, difference: float) -> None:
        """Learn from two stretches of one session, one after the other.

        Args:
            difference: log of the first way's speed over the other's.
        """
        records = self._records[way], self._records[other]
        error = difference - (records[0].advantage - records[1].advantage)
        for record, direction in zip(records, (1, -1), strict=True):
            record.comparisons += 1
            record.advantage += direction * error / 2 * max(self._LEAST_WEIGHT, 1 / record.comparisons)

    @property
    def trials(self) -> Trials:
        """The comparisons at the present load, for when there is company."""
        level = self.load.level
        if level not in self._trials:
            self._trials[level] = Trials(self._expectations(level))
        return self._trials[level]

    @property
    def in_company(self) -> dict[int, Trials]:
        """The comparisons at all loads met so far, by about how many sessions shared the passes."""
        return {sessions_at(level): trials for level, trials in sorted(self._trials.items())}

    def saw(self, shared: SharedPass, adaptive: int) -> None:
        """Learn from a pass of several sessions.

        Args:
            adaptive: how many of them go the way that this choice tells them.
        """
        level = self.load.level
        if level != self._last_level:
            # A trial that is under way would go on at another time, as if nothing had happened.
            if left := self._trials.get(self._last_level):
                left.pause()
            self._last_level = level
        if not self.load.company or not adaptive:
            return
        if 2 * adaptive > shared.sessions:
            self.trials.saw(shared, self._times.row_share)
        else:
            # The speed of the whole says little about a minority.
            self.trials.pause()

    @property
    def _times(self) -> PassTimes:
        return self._alone_times if self._alone_times and self._alone_times.known else self._pass_times

    def _expectations(self, level: int) -> dict[Speculation, float]:
        """Log of each way's expected speed over plain decoding: as measured at the nearest level, and modelled."""
        expected = self._modelled(level)
        if self._trials:
            nearest = min(self._trials, key=lambda known: abs(known - level))
            known, modelled = self._trials[nearest], self._modelled(nearest)
            expected |= {
                way: known.speedup(way) + gain - modelled[way] for way, gain in expected.items() if known.measured(way)
            }
        return expected | {Speculation.OFF: 0.0}

    def _modelled(self, level: int) -> dict[Speculation, float]:
        """Log of each way's expected speed over plain decoding, by what rows cost and how often drafts are right."""
        sessions, tokens, gain = sessions_at(level), 1.0, -math.inf
        plain_ns = self._times.expected_ns(sessions)
        for window in range(1, self._LONGEST_EXPECTED_WINDOW + 1):
            tokens += self.acceptance_rate.value**window
            gain = max(gain, math.log(tokens * plain_ns / self._times.expected_ns(sessions * (window + 1))))
        losses = _COMPANY_SHARED if self._shares_processor else _COMPANY_APART
        return {Speculation.OFF: 0.0} | {way: gain + loss for way, loss in losses.items()}
