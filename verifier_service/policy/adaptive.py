"""A session that speculates in the fastest way, or not at all while that is faster still."""

import math

from sybil_engine.core.moving_mean import MovingMean
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.session import count_tested
from sybil_engine.core.types import Speculation
from sybil_engine.core.worth import Worth
from verifier_service.policy.choice import WAYS, Choice
from verifier_service.policy.pace import Pace
from verifier_service.policy.rule import PassOutcome, Rule, State
from verifier_service.policy.windows import BestWindow, FixedPlan, LearnedWindow


class Adaptive(Rule):
    """Drafts in the fastest way.

    Alone it uses one way for a stretch of passes, measures its own speed, then chooses the next way. In company all
    adaptive sessions go the same way, which is found by the speed of all of them (see `Trials`), but for those whose
    texts are not worth their rows.

    Args:
        greedy: whether the session draws its tokens without noise.
        by_chance: see `BestWindow`.
    """

    _STRETCH_PASSES = 8
    # The first pass of a stretch still judges tokens that were drafted in the previous way.
    _UNMEASURED_PASSES = 1
    _FIRST_REST = 2
    _LONGEST_REST = 32
    # Log speed-up over plain decoding from which on drafting clearly pays: plain decoding need not be measured.
    _NO_DOUBT = math.log(1.6)

    def __init__(
        self, pace: Pace, most_tokens: int, choice: Choice, *, greedy: bool = True, by_chance: bool = True
    ) -> None:
        super().__init__(pace)
        self._choice = choice
        self._greedy = greedy
        self._rules: dict[Speculation, Rule] = {
            Speculation.HEDGED: LearnedWindow(pace, most_tokens, hedged=True),
            Speculation.LOCKSTEP: BestWindow(pace, most_tokens, by_chance=by_chance),
            Speculation.PIPELINED: LearnedWindow(pace, most_tokens, hedged=False),
            Speculation.OFF: FixedPlan(pace, NO_DRAFTING),
        }
        self._passes = self._tokens = self._since_ns = 0
        self._plain_ns = self._plain_tokens = 0.0
        # Log of this session's speed-up over plain decoding.
        self._gain = MovingMean(choice.gains[greedy].value, weight=0.4)
        self._measured = False
        self._last: tuple[Speculation, float] | None = None
        self._rest = self._resting = 0 if choice.begins_drafting(greedy) else self._FIRST_REST
        self._way = Speculation.OFF if self._resting else choice.next()
        self._worth = Worth()
        self._was_in_company = choice.load.company

    @property
    def _way_now(self) -> Speculation:
        if not self._choice.load.company:
            return self._way
        return Speculation.OFF if self._worth.rests else self._choice.trials.way

    @property
    def reason(self) -> str:
        """The choice in words, with its figures."""
        return self._reason_in_company() if self._choice.load.company else self._reason_alone()

    def _reason_in_company(self) -> str:
        trials, pace, sessions = self._choice.trials, self.pace, self._choice.load.about_sessions
        fastest = trials.best
        if fastest is Speculation.OFF:
            what = f"off: about {sessions} sessions fill the passes"
        elif self._worth.rests:
            what = f"off: too little of this text is guessed while about {sessions} sessions share the passes"
        else:
            what = f"{fastest.value}: fastest while about {sessions} sessions share the passes"
        speeds = ", ".join(
            f"{way.value} {math.exp(trials.speedup(way)):.2f}{'' if trials.measured(way) else ' expected'}"
            for way in (Speculation.OFF, *WAYS)
        )
        if trials.way is not fastest:
            what += f", now trying {trials.way.value}"
        return (
            f"{what}; speed of all together over plain decoding: {speeds}; "
            f"acceptance {pace.acceptance_rate.value:.2f}, a row costs {pace.row_price:.2f} tokens"
        )

    def _reason_alone(self) -> str:
        pace, best = self.pace, self._choice.best
        others = ", ".join(
            f"{way.value} {math.expm1(self._choice.relative_speed(way)):+.0%}"
            f"{'' if self._choice.compared_with_others(way) else ', not tried yet'}"
            for way in WAYS
            if way is not best
        )
        judged = "is fastest" if self._choice.compared_with_others(best) else "should be fastest"
        gain = f"{math.exp(self._gain.value):.2f} x plain decoding" if self._measured else "not measured yet"
        chosen = Speculation.OFF if self._resting else best
        times = pace.alone_times if chosen in (Speculation.OFF, Speculation.LOCKSTEP) else pace.pass_times
        return (
            f"{chosen.value}: {best.value} {judged} here ({others}), and {gain} on this text; "
            f"acceptance {pace.acceptance_rate.value:.2f}, "
            f"pass {times.expected_ns(1) / 1e6:.1f} ms + {times.row_ns / 1e6:.2f} a row, "
            f"draft {pace.draft_token_ns.value / 1e6:.1f} ms a token, "
            f"round trip {pace.round_trip_ns.value / 1e6:.1f} ms"
        )

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        return self._rules[self._way_now].next(state)

    def learn(self, outcome: PassOutcome) -> None:
        """Measure the stretch; when it is over, begin another one."""
        in_company = self._choice.load.company
        if in_company is not self._was_in_company:
            self._was_in_company, self._passes, self._last = in_company, 0, None
        for index in range(count_tested(outcome.judged, outcome.accepted)):
            self._choice.acceptance_rate.add(float(index < outcome.accepted))
        if in_company:
            self._worth.saw(outcome.judged, outcome.accepted, self.pace.row_price)
        else:
            self._learn_alone(outcome)

    def _learn_alone(self, outcome: PassOutcome) -> None:
        self._passes += 1
        if self._passes <= self._UNMEASURED_PASSES:
            self._since_ns, self._tokens = outcome.now_ns, 0
            self._plain_ns = self._plain_tokens = 0.0
            return
        self._tokens += outcome.tokens
        self._plain_ns += outcome.plain_pass_ns
        self._plain_tokens += outcome.plain_tokens
        if self._passes < self._STRETCH_PASSES:
            return
        elapsed_ns = max(1, outcome.now_ns - self._since_ns)
        self._passes = 0
        if self._way is Speculation.OFF:
            self._resting = max(0, self._resting - 1)
            self._choice.saw_plain()
            self._last = None
        else:
            self._compare(math.log(self._tokens / elapsed_ns), math.log(self._plain_tokens / max(1.0, self._plain_ns)))
        self._way = self._next_way(self._way)

    def _next_way(self, before: Speculation) -> Speculation:
        in_doubt = self._gain.value < self._NO_DOUBT and self._choice.wants_plain
        if self._resting or (self._last and in_doubt):
            return Speculation.OFF
        return self._choice.best if before is Speculation.OFF else self._choice.next(before)

    def _compare(self, speed: float, plain_speed: float) -> None:
        """Learn from a stretch with drafts; stop drafting for a while if it does not pay on this text.

        Args:
            speed, plain_speed: log of tokens per nanosecond: as measured, and as expected without drafts.
        """
        if self._last and self._last[0] is not self._way:
            self._choice.compared(self._way, self._last[0], speed - self._last[1])
        self._last = self._way, speed
        gain = speed - plain_speed
        self._gain.add(gain)
        self._measured = True
        self._choice.gains[self._greedy].add(gain)
        if self._gain.value > 0:
            self._rest = 0
            return
        self._rest = min(max(self._FIRST_REST, 2 * self._rest), self._LONGEST_REST)
        self._resting = self._rest
