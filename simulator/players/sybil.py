"""This engine: its own rules, sessions and draft trees, in virtual time."""

from dataclasses import dataclass, field

from simulator.experience import Experience
from simulator.players.player import Outcome
from simulator.point import Point
from simulator.stack import Stack
from simulator.trace import Trace
from sybil_engine.core.plan import first_plan
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import MODEL_DRAFTER, SamplingParams, Speculation


@dataclass(frozen=True, eq=False)
class Sybil:
    """One arm of this engine, under shared noise. A message takes half a round trip, whatever its size.

    Args:
        window_tokens: as in a request; 0: the engine chooses.
        most_tokens: the most drafted tokens of one path that a pass may judge: the verifier's --max-window-tokens.
        experience: of the simulated services; each play adds to it.
        drafters: names of those that guess, see SessionOpen.
        services: how many drafter services work for a session.
    """

    speculation: Speculation
    window_tokens: int = 0
    most_tokens: int = 15
    experience: Experience = field(default_factory=Experience)
    drafters: tuple[str, ...] = (MODEL_DRAFTER,)
    services: int = 1

    def opening(self, trace: Trace, prompt_tokens: int = 1, *, drafts_pay: bool = True) -> SessionOpen:
        """Of a session that says a trace's text; see `first_plan`."""
        # Proposers look for what stands in the prompt, too.
        prompt = trace.prompt_ids if self.drafters != (MODEL_DRAFTER,) else ()
        token_ids = prompt or (0,) * prompt_tokens
        prompt_tokens = len(token_ids)
        return SessionOpen(
            token_ids=token_ids,
            prompt_tokens=prompt_tokens,
            sampling=SamplingParams(temperature=trace.temperature),
            seed=trace.seed,
            max_position=prompt_tokens + len(trace),
            plan=first_plan(
                self.speculation,
                self.window_tokens,
                shares_processor=self.experience.shares_processor,
                drafts_pay=drafts_pay,
            ),
            window_tokens=self.window_tokens,
            drafters=self.drafters,
        )

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
        stack = Stack(arm.most_tokens, arm.experience, point, arm.services)
        self.commits: list[tuple[int, Commit]] = []
        self.blocks = stack.blocks
        self.draft_passes = stack.draft_passes
        stack.open(arm.opening(trace), trace, lambda commit: self.commits.append((stack.events.now_ns, commit)))
        stack.events.run()
