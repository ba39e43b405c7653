"""This engine: its own rules, sessions and draft trees, in virtual time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.drafting import Drafting
from simulator.events import Events
from simulator.experience import Experience
from simulator.players.player import Outcome
from simulator.point import Point
from simulator.trace import Trace
from simulator.verifying import Verifying
from sybil_engine.core.plan import first_plan
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import Block, SamplingParams, Speculation


@dataclass(frozen=True, eq=False)
class Sybil:
    """One arm of this engine, under shared noise. A message takes half a round trip, whatever its size.

    Args:
        window_tokens: as in a request; 0: the engine chooses.
        most_tokens: the most drafted tokens of one path that a pass may judge: the verifier's --max-window-tokens.
        experience: of the simulated services; each play adds to it.
    """

    speculation: Speculation
    window_tokens: int = 0
    most_tokens: int = 15
    experience: Experience = field(default_factory=Experience)

    def play(self, trace: Trace, point: Point) -> Outcome:
        """A player, see there."""
        commits = Simulation(self, trace, point).commits
        first_ns, last_ns = commits[0][0], commits[-1][0]
        return Outcome(
            tokens=sum(len(commit.tokens) for _, commit in commits),
            passes=len(commits),
            duration_ms=last_ns / 1e6,
            idle_ms=(last_ns - sum(commit.timings.forward_ns for _, commit in commits)) / 1e6,
            first_tokens=len(commits[0][1].tokens),
            first_ms=first_ns / 1e6,
        )


class Simulation:
    """One session from its opening to its end.

    Attributes:
        commits: with the times at which their passes ended, in nanoseconds since the opening.
        blocks: of each push, with the times at which they arrived.
        draft_passes: when each started and ended.
    """

    def __init__(self, arm: Sybil, trace: Trace, point: Point) -> None:
        self._one_way_ns = round(point.one_way_ms * 1e6)
        self._events = Events()
        self.commits: list[tuple[int, Commit]] = []
        self.blocks: list[tuple[int, Sequence[Block]]] = []
        # Its prompt is one token: prompts are not simulated.
        opening = SessionOpen(
            token_ids=(0,),
            prompt_tokens=1,
            sampling=SamplingParams(temperature=trace.temperature),
            seed=trace.seed,
            max_position=1 + len(trace),
            plan=first_plan(arm.speculation, arm.window_tokens),
            window_tokens=arm.window_tokens,
        )
        text = trace.target_ids.tolist()
        self._verifying = Verifying(opening, text, arm.most_tokens, arm.experience, point, self._events, self._commit)
        self._drafting = Drafting(opening, trace, arm.experience, point, self._events, self._push)
        self.draft_passes = self._drafting.passes
        self._drafting.step()
        self._verifying.look()
        self._events.run()

    def _push(self, blocks: Sequence[Block]) -> None:
        arrives_ns = self._events.now_ns + self._one_way_ns
        self.blocks.append((arrives_ns, blocks))
        self._events.at(arrives_ns, lambda: self._verifying.hear(blocks))

    def _commit(self, commit: Commit) -> None:
        self.commits.append((self._events.now_ns, commit))
        self._events.at(self._events.now_ns + self._one_way_ns, lambda: self._drafting.hear(commit.advance))
