"""The adaptive choice: which way to speculate commits most tokens per unit of time, found by trying."""

import math
from dataclasses import dataclass

from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.types import SessionOpen, Speculation
from verifier_service.launch import BestWindow, FixedWindow, LaunchRule, LearnedWindow, Wait
from verifier_service.pace import MovingMean, Pace

WAYS = (Speculation.PIPELINED, Speculation.LOCKSTEP, Speculation.HEDGED)

# Logarithms of what each way may be expected to gain over the first. On a shared processor drafting ahead slows down
# the passes that it is to hide behind; elsewhere hedges lose what their rows cost.
_PRIORS_APART = {Speculation.PIPELINED: 0.0, Speculation.LOCKSTEP: -0.2, Speculation.HEDGED: 0.15}
_PRIORS_SHARED = {Speculation.PIPELINED: 0.0, Speculation.LOCKSTEP: 0.2, Speculation.HEDGED: -0.05}


@dataclass
class _Record:
    """How one way did.

    Attributes:
        advantage: logarithm of its speed; only differences between ways mean anything.
        comparisons: how often it was compared with another one.
        last_trial: when it was last taken.
    """

    advantage: float = 0.0
    comparisons: int = 0
    last_trial: int = 0


class Choice:
    """Which way of drafting is fastest: what a verifier has learned over all its adaptive sessions.

    How fast a session goes depends on its text more than on the way, so only neighbouring stretches of one session are
    compared. Most stretches go the way that is fastest so far; now and then another one is tried: often while it may
    well be the fastest, by what is known of it, and seldom afterwards, so that the choice follows what changes: load,
    links, a drafter that dies or comes back.
    """

    _TRY_EVERY = 3
    _TRY_SLOWER_EVERY = 20
    # Of the logarithm of two neighbouring stretches' speeds: what the text does to it.
    _SPREAD = 0.2
    _LEAST_WEIGHT = 0.1
    # Comparisons: two stretches differ by chance more than two ways do.
    _PRIOR_COUNTS_FOR = 3
    # Hedges were measured at 1.03 to 1.3 of pipelined where rows cost nothing, and at 0.96 where one costs 2.8 % of a
    # pass (docs/log.md): a line through both, no lower than draft-then-verify.
    _LOST_TO_ROWS = 7.0
    _LEAST_PRIOR = -0.2

    _PRIOR_GAIN = math.log(1.5)
    _GAIN_WEIGHT = 0.05
    _PLAIN_EVERY = 200
    _DRAFT_ANYWAY_EVERY = 8

    def __init__(self, *, shares_processor: bool = False, pass_times: PassTimes | None = None) -> None:
        """
        Args:
            shares_processor: whether drafting takes time from verify passes.
            pass_times: say what rows cost; without, nothing.
        """
        self._shares_processor = shares_processor
        self._pass_times = pass_times or PassTimes()
        self._records = {way: _Record() for way in WAYS}
        self._stretches = 0
        # Logarithms of how much faster sessions are than without drafts, greedy and sampled ones apart.
        self._gains = {greedy: MovingMean(self._PRIOR_GAIN, self._GAIN_WEIGHT) for greedy in (False, True)}
        self._openings = 0
        self._last_plain: int | None = None

    @property
    def best(self) -> Speculation:
        """The fastest so far; the less is known, the more by where drafter and verifier run."""
        return max(WAYS, key=self._advantage)

    def next(self, before: Speculation | None = None) -> Speculation:
        """The way of the next stretch of a session.

        Args:
            before: the way of its last one. A try follows the fastest way, so that it is compared with that.
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
        """Whether a way is so little known, or so little behind, that comparing it may pay soon."""
        return self.behind(way) + self._SPREAD / (1 + self._records[way].comparisons) > 0

    def behind(self, way: Speculation) -> float:
        """Logarithm of a way's speed as a share of the fastest one's."""
        return self._advantage(way) - self._advantage(self.best)

    def _advantage(self, way: Speculation) -> float:
        record = self._records[way]
        counted = self._PRIOR_COUNTS_FOR + record.comparisons
        return (self._PRIOR_COUNTS_FOR * self._prior(way) + record.comparisons * record.advantage) / counted

    def _prior(self, way: Speculation) -> float:
        """What a way may be expected to gain over the first, before they are compared."""
        if self._shares_processor:
            return _PRIORS_SHARED[way]
        lost = self._LOST_TO_ROWS * self._pass_times.row_share if way is Speculation.HEDGED else 0.0
        return max(self._LEAST_PRIOR, _PRIORS_APART[way] - lost)

    def compared_with_others(self, way: Speculation) -> bool:
        """Whether anything about a way was measured, not only expected."""
        return self._records[way].comparisons > 0

    def begins_drafting(self, greedy: bool) -> bool:
        """Whether a new session drafts from the start; where that rarely pays, one of a few does all the same."""
        self._openings += 1
        return self.gain(greedy) > 0 or self._openings % self._DRAFT_ANYWAY_EVERY == 0

    def gain(self, greedy: bool) -> float:
        """Logarithm of how much faster than plain decoding such sessions have been."""
        return self._gains[greedy].value

    def gained(self, greedy: bool, gain: float) -> None:
        """Learn from a stretch with drafts."""
        self._gains[greedy].add(gain)

    @property
    def wants_plain(self) -> bool:
        """Whether it is time for a stretch without drafts, to see how fast plain decoding really is."""
        return self._last_plain is None or self._stretches - self._last_plain > self._PLAIN_EVERY

    def saw_plain(self) -> None:
        """Note that there was a stretch without drafts."""
        self._last_plain = self._stretches

    def compared(self, way: Speculation, other: Speculation, difference: float) -> None:
        """Learn from two stretches of one session, one after the other.

        Args:
            difference: logarithm of the first way's speed over the other's.
        """
        records = self._records[way], self._records[other]
        error = difference - (records[0].advantage - records[1].advantage)
        for record, direction in zip(records, (1, -1), strict=True):
            record.comparisons += 1
            record.advantage += direction * error / 2 * max(self._LEAST_WEIGHT, 1 / record.comparisons)


class Adaptive:
    """A session that speculates in whatever way is fastest, and not at all while that is faster still.

    Args:
        greedy: whether the session's tokens are drawn without noise.
        by_chance: see `BestWindow`.
    """

    _STRETCH_PASSES = 8
    # The first pass of a stretch still judges what the way before it drafted.
    _UNMEASURED_PASSES = 1
    _FIRST_REST = 2
    _LONGEST_REST = 32
    # A session that is so much faster than without drafts, in logarithms, needs no exact measure of it.
    _NO_DOUBT = math.log(1.6)

    def __init__(
        self, pace: Pace, max_window_tokens: int, choice: Choice, *, greedy: bool = True, by_chance: bool = True
    ) -> None:
        self.pace = pace
        self._choice = choice
        self._greedy = greedy
        self._rules: dict[Speculation, LaunchRule] = {
            Speculation.HEDGED: LearnedWindow(pace, max_window_tokens, hedged=True),
            Speculation.LOCKSTEP: BestWindow(pace, max_window_tokens, by_chance=by_chance),
            Speculation.PIPELINED: LearnedWindow(pace, max_window_tokens, hedged=False),
            Speculation.OFF: FixedWindow(pace, 0),
        }
        self._passes = self._tokens = self._since_ns = 0
        self._plain_ns = 0.0
        # Logarithm of how much faster this session is than without drafts.
        self._gain = MovingMean(choice.gain(greedy), weight=0.4)
        self._measured = False
        self._last: tuple[Speculation, float] | None = None
        self._rest = self._resting = 0 if choice.begins_drafting(greedy) else self._FIRST_REST
        self._rule = self._rules[Speculation.OFF if self._resting else choice.next()]

    @property
    def max_window_tokens(self) -> int:
        return self._rule.max_window_tokens

    @property
    def draft_rows(self) -> int:
        return self._rule.draft_rows

    @property
    def speculation(self) -> Speculation:
        return self._rule.speculation

    @property
    def reason(self) -> str:
        """The choice in words, with the figures that decided."""
        pace, best = self.pace, self._choice.best
        behind = ", ".join(
            f"{way.value} {math.expm1(self._choice.behind(way)):+.0%}"
            f"{'' if self._choice.compared_with_others(way) else ', not tried yet'}"
            for way in WAYS
            if way is not best
        )
        judged = "is fastest" if self._choice.compared_with_others(best) else "should be fastest"
        gain = f"{math.exp(self._gain.value):.2f} x plain decoding" if self._measured else "not measured yet"
        chosen = Speculation.OFF if self._resting else best
        times = pace.alone_times if chosen in (Speculation.OFF, Speculation.LOCKSTEP) else pace.pass_times
        return (
            f"{chosen.value}: {best.value} {judged} here ({behind}), and {gain} on this text; "
            f"acceptance {pace.acceptance_rate.value:.2f}, "
            f"pass {times.expected_ns(1) / 1e6:.1f} ms + {times.row_ns / 1e6:.2f} a row, "
            f"draft {pace.draft_token_ns.value / 1e6:.1f} ms a token, "
            f"round trip {pace.round_trip_ns.value / 1e6:.1f} ms"
        )

    def wait(self, ready_tokens: int) -> Wait:
        return self._rule.wait(ready_tokens)

    def draft_budget(self) -> int:
        return self._rule.draft_budget()

    def committed(self, tokens: int, now_ns: int, plain_pass_ns: float) -> None:
        """Measure the stretch, and begin another one when it is over."""
        self._passes += 1
        if self._passes <= self._UNMEASURED_PASSES:
            self._since_ns, self._tokens, self._plain_ns = now_ns, 0, 0.0
            return
        self._tokens += tokens
        self._plain_ns += plain_pass_ns
        if self._passes < self._STRETCH_PASSES:
            return
        passes, elapsed_ns = self._passes - self._UNMEASURED_PASSES, max(1, now_ns - self._since_ns)
        self._passes = 0
        if self.speculation is Speculation.OFF:
            self._resting = max(0, self._resting - 1)
            self._choice.saw_plain()
            self._last = None
        else:
            self._learn(math.log(self._tokens / elapsed_ns), -math.log(max(1.0, self._plain_ns / passes)))
        self._rule = self._rules[self._next_way(self.speculation)]

    def _next_way(self, before: Speculation) -> Speculation:
        in_doubt = self._gain.value < self._NO_DOUBT and self._choice.wants_plain
        if self._resting or (self._last and in_doubt):
            return Speculation.OFF
        return self._choice.best if before is Speculation.OFF else self._choice.next(before)

    def _learn(self, speed: float, plain_speed: float) -> None:
        """Learn from a stretch with drafts, and rest from drafting if that does not pay on this text.

        Args:
            speed, plain_speed: logarithms of tokens per nanosecond, as it was and as it is expected without drafts.
        """
        way = self.speculation
        if self._last and self._last[0] is not way:
            self._choice.compared(way, self._last[0], speed - self._last[1])
        self._last = way, speed
        gain = speed - plain_speed
        self._gain.add(gain)
        self._measured = True
        self._choice.gained(self._greedy, gain)
        if self._gain.value > 0:
            self._rest = 0
            return
        self._rest = min(max(self._FIRST_REST, 2 * self._rest), self._LONGEST_REST)
        self._resting = self._rest


def launch_rule(opening: SessionOpen, max_window_tokens: int, pace: Pace, choice: Choice) -> LaunchRule:
    """The rule that a session asks for.

    Args:
        max_window_tokens: the most that the service lets one pass judge.
        choice: shared by all sessions of a verifier.
    """
    window_tokens = min(opening.window_tokens or max_window_tokens, max_window_tokens)
    match opening.speculation:
        case Speculation.OFF:
            return FixedWindow(pace, 0)
        case Speculation.LOCKSTEP:
            return FixedWindow(pace, window_tokens)
        case Speculation.PIPELINED:
            return LearnedWindow(pace, window_tokens, hedged=False)
        case Speculation.HEDGED:
            return LearnedWindow(pace, window_tokens, hedged=True)
        case Speculation.AUTO:
            greedy, by_chance = opening.sampling.greedy, not opening.tests_ratios
            return Adaptive(pace, window_tokens, choice, greedy=greedy, by_chance=by_chance)
