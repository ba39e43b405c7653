"""The adaptive choice: which way to speculate commits most tokens per unit of time, found by trying."""

from dataclasses import dataclass, field

from sybil_engine.types import SessionOpen, Speculation
from verifier_service.launch import BestWindow, FixedWindow, LaunchRule, LearnedWindow, Wait
from verifier_service.pace import MovingMean, Pace

CANDIDATES = (Speculation.HEDGED, Speculation.LOCKSTEP, Speculation.PIPELINED, Speculation.OFF)


@dataclass
class _Record:
    """How one way did: tokens per nanosecond, how often it was tried, and when last."""

    speed: MovingMean = field(default_factory=lambda: MovingMean(0.0, weight=0.3))
    trials: int = 0
    last_trial: int = 0


class Choice:
    """What a verifier has learned over all its adaptive sessions.

    Sessions run in stretches of a few passes. Most stretches go the way that was fastest so far; now and then another
    one is tried, the more seldom the slower it was, so that the choice follows what changes: load, text, a drafter
    that dies or comes back.
    """

    _FIRST_TRIALS = 2
    _TRY_EVERY = 8
    # A way that reached less than this share of the best is tried a quarter as often.
    _HOPELESS = 0.7
    _TRY_HOPELESS_EVERY = 4

    def __init__(self) -> None:
        self._records = {speculation: _Record() for speculation in CANDIDATES}
        self._stretches = 0

    def next(self) -> Speculation:
        """How the next stretch speculates."""
        self._stretches += 1
        for speculation, record in self._records.items():
            if record.trials < self._FIRST_TRIALS:
                return speculation
        best = self.best
        if self._stretches % self._TRY_EVERY:
            return best
        others = [speculation for speculation in CANDIDATES if speculation is not best]
        if (self._stretches // self._TRY_EVERY) % self._TRY_HOPELESS_EVERY:
            least = self._HOPELESS * self._records[best].speed.value
            others = [each for each in others if self._records[each].speed.value >= least]
        return min(others, key=lambda each: self._records[each].last_trial, default=best)

    @property
    def best(self) -> Speculation:
        """The fastest so far."""
        return max(CANDIDATES, key=lambda speculation: self._records[speculation].speed.value)

    def ran(self, speculation: Speculation, tokens: int, elapsed_ns: int) -> None:
        """Learn how a stretch went."""
        record = self._records[speculation]
        speed = tokens / elapsed_ns
        if not record.trials:
            record.speed.value = speed
        record.speed.add(speed)
        record.trials += 1
        record.last_trial = self._stretches

    def reason(self, pace: Pace) -> str:
        """The choice in words, with the figures that decided."""
        speeds = sorted(
            ((record.speed.value * 1e9, speculation) for speculation, record in self._records.items() if record.trials),
            key=lambda pair: -pair[0],
        )
        measured = ", ".join(f"{speculation.value} {speed:.0f}" for speed, speculation in speeds)
        return (
            f"{self.best.value}: tokens/s of a session {measured}; acceptance {pace.acceptance_rate.value:.2f}, "
            f"pass {pace.pass_times.expected_ns(1) / 1e6:.1f} ms + {pace.pass_times.row_ns / 1e6:.2f} a row, "
            f"draft {pace.draft_token_ns.value / 1e6:.1f} ms a token, "
            f"round trip {pace.round_trip_ns.value / 1e6:.1f} ms"
        )


class Adaptive:
    """A session that speculates in whatever way is fastest."""

    _STRETCH_PASSES = 8
    # The first pass of a stretch still judges what the way before it drafted.
    _UNMEASURED_PASSES = 1

    def __init__(self, pace: Pace, max_window_tokens: int, choice: Choice) -> None:
        self.pace = pace
        self._choice = choice
        self._rules: dict[Speculation, LaunchRule] = {
            Speculation.HEDGED: LearnedWindow(pace, max_window_tokens, hedged=True),
            Speculation.LOCKSTEP: BestWindow(pace, max_window_tokens),
            Speculation.PIPELINED: LearnedWindow(pace, max_window_tokens, hedged=False),
            Speculation.OFF: FixedWindow(pace, 0),
        }
        self._passes = self._tokens = self._since_ns = 0
        self._rule = self._rules[choice.next()]

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
        return self._choice.reason(self.pace)

    def wait(self, ready_tokens: int) -> Wait:
        return self._rule.wait(ready_tokens)

    def draft_budget(self) -> int:
        return self._rule.draft_budget()

    def committed(self, tokens: int, now_ns: int) -> None:
        """Measure the stretch, and begin another one when it is over."""
        self._passes += 1
        if self._passes <= self._UNMEASURED_PASSES:
            self._since_ns, self._tokens = now_ns, 0
            return
        self._tokens += tokens
        if self._passes >= self._STRETCH_PASSES:
            self._choice.ran(self.speculation, self._tokens, max(1, now_ns - self._since_ns))
            self._passes = 0
            self._rule = self._rules[self._choice.next()]


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
            return Adaptive(pace, window_tokens, choice)
