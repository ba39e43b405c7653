"""Many users at once: each keeps one session open, over one verifier and one drafter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulator.players.sybil import Sybil
from simulator.point import Point
from simulator.stack import Stack
from simulator.trace import Trace
from sybil_engine.core.session import Commit
from sybil_engine.core.types import Speculation


@dataclass(frozen=True, slots=True)
class Stay:
    """How long a crowd stays, and what each of its users asks for.

    Attributes:
        users: sessions at once.
        duration_s: after which no session starts.
        warm_up_s: what is committed before is not counted.
        prompt_tokens: of each session.
    """

    users: int
    duration_s: float
    warm_up_s: float = 0.0
    prompt_tokens: int = 1


class Crowd:
    """Plays traces in turn, as users in a closed loop do.

    Attributes:
        tokens: committed between the warm-up and the end.
        passes: session passes by the way in effect.
        reasons: of the sessions that ended.
    """

    def __init__(self, arm: Sybil, traces: Sequence[Trace], point: Point, stay: Stay) -> None:
        self._arm = arm
        self._traces = traces
        self._stay = stay
        self._stack = Stack(arm.most_tokens, arm.experience, point)
        self._started = self.tokens = 0
        # As in the coordinator: whether the last commit's plan asks for drafts.
        self._drafts_pay = True
        self.passes = dict.fromkeys(Speculation, 0)
        self.reasons: list[str] = []
        for user in range(stay.users):
            # Not all at one moment, for they would end at one moment, too.
            self._stack.events.at(user * 1_000_000, self._start)
        self._stack.events.run()

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (self._stay.duration_s - self._stay.warm_up_s)

    def _start(self) -> None:
        trace = self._traces[self._started % len(self._traces)]
        self._started += 1
        opening = self._arm.opening(
            trace, self._stay.prompt_tokens, drafts_pay=self._drafts_pay or not self._stack.busy
        )
        opening = replace(opening, seed=self._started)
        self._stack.open(opening, trace, self._committed)

    def _committed(self, commit: Commit) -> None:
        self._drafts_pay = commit.plan.speculation is not Speculation.OFF
        now_s = self._stack.events.now_ns / 1e9
        if self._stay.warm_up_s <= now_s < self._stay.duration_s:
            self.tokens += len(commit.tokens)
            self.passes[commit.plan.speculation] += 1
        if commit.finish_reason:
            self.reasons.append(commit.reason)
            if now_s < self._stay.duration_s:
                self._stack.events.at(self._stack.events.now_ns, self._start)
