"""How fast requests are served, as measured on those that run, and when each ends at that speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Feeding a prompt token takes about this share of the time that one session more adds to a round.
_PROMPT_TOKEN_COST = 0.125
# Before several loads were seen: a pass takes some time whoever takes part, as much as for this many sessions.
_LIKELY_PASS_COST = 2.0
_LIKELY_WEIGHT_S = 0.5
_MOST_PASS_COST = 1000.0
# What was measured this long ago counts half: for how fast it is now, and for how that depends on the load.
_SPEED_HALF_LIFE_S, _SHAPE_HALF_LIFE_S = 4.0, 60.0
# All is forgotten if nothing has run for this long.
_FORGET_S = 10.0
# Less is no measurement.
_LEAST_BUSY_S = 0.25
_LEAST_TOKENS = 8.0
# Predictions are renewed this often.
_RENEW_S = 0.05


@dataclass(slots=True)
class _Load:
    """What was measured at one load. All three are decayed together, so that their ratios are averages.

    Attributes:
        busy_s: how long as many sessions ran.
        rounds: in each, every session got a token.
        work_tokens: the tokens of these rounds, and the prompts that were fed between them, as as many tokens as cost
            the same.
    """

    busy_s: float = 0.0
    rounds: float = 0.0
    work_tokens: float = 0.0


@dataclass(slots=True)
class _Loads:
    """What was measured at each load, the latest counting most.

    Attributes:
        half_life_s: what was measured this long ago counts half.
        by_sessions: by how many ran.
    """

    half_life_s: float
    by_sessions: dict[int, _Load] = field(default_factory=dict)

    def add(self, sessions: int, new: _Load) -> None:
        decay = 0.5 ** (new.busy_s / self.half_life_s)
        for load in self.by_sessions.values():
            load.busy_s *= decay
            load.rounds *= decay
            load.work_tokens *= decay
        load = self.by_sessions.setdefault(sessions, _Load())
        load.busy_s += new.busy_s
        load.rounds += new.rounds
        load.work_tokens += new.work_tokens

    def total(self) -> _Load:
        loads = self.by_sessions.values()
        return _Load(*(sum(getattr(each, name) for each in loads) for name in ("busy_s", "rounds", "work_tokens")))

    def pass_cost(self) -> float:
        """What a pass takes whoever takes part, in units of what each session adds.

        Least squares for busy_s = pass_s * rounds + session_s * work_tokens over the loads, each weighted by its time,
        and the likely ratio of the two as if it had been measured, too.
        """
        if not (all_rounds := self.total().rounds):
            return _LIKELY_PASS_COST
        likely = _LIKELY_WEIGHT_S * (all_rounds / self.total().busy_s) ** 2
        # The normal equations: [[aa, ab], [ab, bb]] @ [pass_s, session_s] = [a, b].
        aa, ab, bb = likely, -likely * _LIKELY_PASS_COST, likely * _LIKELY_PASS_COST**2
        a = b = 0.0
        for load in self.by_sessions.values():
            aa += load.rounds**2 / load.busy_s
            ab += load.rounds * load.work_tokens / load.busy_s
            bb += load.work_tokens**2 / load.busy_s
            a += load.rounds
            b += load.work_tokens
        pass_s, session_s = a * bb - b * ab, b * aa - a * ab
        return min(max(pass_s / session_s, 0.0), _MOST_PASS_COST) if session_s > 0 else _MOST_PASS_COST


class Throughput:
    """Measures what the running requests get, and predicts from it what as many others would get.

    In a round every running session gets one token. A round of n sessions takes a time that is proportional to
    pass cost + n. The pass cost is learned from all loads that were seen, the factor from the last seconds.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._sessions = 0
        self._since_s = self._renewed_s = clock_s()
        self._forget()

    def run(self, sessions: int) -> None:
        """Note how many sessions run from now on."""
        self._measure()
        if not self._sessions:
            self._since_s = self._clock_s()
        self._sessions = sessions

    def deliver(self, tokens: int) -> None:
        """Count tokens that were generated."""
        self._tokens += tokens

    def feed(self, tokens: int) -> None:
        """Count prompt tokens that were fed."""
        self._prompt_tokens += tokens

    def pace_s(self, sessions: int) -> float:
        """Seconds of a round of as many sessions; 0 while nothing is measured."""
        self._renew()
        return self._session_s * (self._pass_cost + sessions)

    def prompt_s(self, tokens: int) -> float:
        """Seconds that a prompt takes; 0 while nothing is measured."""
        self._renew()
        return self._session_s * _PROMPT_TOKEN_COST * tokens

    def ends_s(self, tokens: Sequence[int]) -> list[float]:
        """Seconds until each session ends if all run together, each takes this many tokens, and no other starts."""
        self._renew()
        left = len(tokens)
        ends_s, passed_s, done = [0.0] * left, 0.0, 0
        for index in sorted(range(left), key=tokens.__getitem__):
            passed_s += (tokens[index] - done) * self._session_s * (self._pass_cost + left)
            done, left = tokens[index], left - 1
            ends_s[index] = passed_s
        return ends_s

    def _forget(self) -> None:
        self._recent, self._all = _Loads(_SPEED_HALF_LIFE_S), _Loads(_SHAPE_HALF_LIFE_S)
        self._tokens = self._prompt_tokens = 0
        self._session_s, self._pass_cost = 0.0, _LIKELY_PASS_COST

    def _measure(self) -> None:
        """Take in what happened since the last time. While nothing runs there is nothing to measure."""
        now_s = self._clock_s()
        passed_s = now_s - self._since_s
        if self._sessions and passed_s > 0:
            self._since_s = now_s
            work_tokens = self._tokens + self._prompt_tokens * _PROMPT_TOKEN_COST
            new = _Load(passed_s, self._tokens / self._sessions, work_tokens)
            self._tokens = self._prompt_tokens = 0
            self._recent.add(self._sessions, new)
            self._all.add(self._sessions, new)
        elif passed_s > _FORGET_S:
            self._since_s = now_s
            self._forget()

    def _renew(self) -> None:
        """Renew the predictions, if that is due."""
        if (now_s := self._clock_s()) - self._renewed_s < _RENEW_S:
            return
        self._renewed_s = now_s
        self._measure()
        recent = self._recent.total()
        if recent.busy_s < _LEAST_BUSY_S or recent.work_tokens < _LEAST_TOKENS:
            self._session_s = 0.0
            return
        self._pass_cost = self._all.pass_cost()
        self._session_s = recent.busy_s / (recent.work_tokens + self._pass_cost * recent.rounds)
