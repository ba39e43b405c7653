"""One verifier and one drafter in virtual time, and the wire between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from simulator.drafting import Drafting
from simulator.events import Events
from simulator.experience import Experience
from simulator.point import Point
from simulator.processors import Processors
from simulator.trace import Trace
from simulator.verifying import ANY_TOKEN, Verifying
from sybil_engine.core.session import Commit, DrafterShare, SessionOpen
from sybil_engine.core.types import Block


@dataclass(eq=False)
class _Played:
    """A session that runs.

    Attributes:
        opening: with all that was committed since, for a drafter that joins later.
        drafts: whether it has a drafter.
    """

    opening: SessionOpen
    trace: Trace
    commits: Callable[[Commit], None]
    drafts: bool = False


class Stack:
    """Plays sessions. A message takes half a round trip, whatever its size.

    As in the coordinator, a session has a drafter from the first plan on that asks for drafts.

    Attributes:
        events: what happens when; run them after sessions are opened.
        draft_passes: of the first drafter: when each started and ended.
        blocks: of each push, with the times at which they arrived.
    """

    def __init__(self, most_tokens: int, experience: Experience, point: Point, drafters: int = 1) -> None:
        """
        Args:
            drafters: services that draft for each session, each on a device of its own.
        """
        self._one_way_ns = round(point.one_way_ms * 1e6)
        self.events = Events()
        processors = Processors(self.events, point.slowdown)
        self._verifying = Verifying(most_tokens, experience, point, self.events, processors, self._commit)
        self._drafting = [
            Drafting(experience, point, self.events, processors, self._push, DrafterShare(index, drafters))
            for index in range(drafters)
        ]
        self.draft_passes = self._drafting[0].passes
        self.blocks: list[tuple[int, Sequence[Block]]] = []
        self._played: dict[int, _Played] = {}
        self._opened = 0

    @property
    def busy(self) -> bool:
        """Whether a session runs."""
        return bool(self._played)

    def open(self, opening: SessionOpen, trace: Trace, commits: Callable[[Commit], None]) -> None:
        """Open a session now.

        Args:
            commits: takes each commit when its pass ends.
        """
        number, self._opened = self._opened, self._opened + 1
        self._played[number] = _Played(opening, trace, commits)
        if opening.plan.budget:
            self._draft(number)
        vocabulary_size = trace.vocabulary_size or ANY_TOKEN
        self._verifying.open(number, opening, trace.target_ids.tolist(), vocabulary_size)

    def _draft(self, number: int) -> None:
        played = self._played.get(number)
        if played and not played.drafts:
            played.drafts = True
            for drafting in self._drafting:
                drafting.open(number, played.opening, played.trace)

    def _push(self, number: int, blocks: Sequence[Block]) -> None:
        arrives_ns = self.events.now_ns + self._one_way_ns
        self.blocks.append((arrives_ns, blocks))
        self.events.at(arrives_ns, partial(self._verifying.hear, number, blocks))

    def _commit(self, number: int, commit: Commit) -> None:
        played = self._played[number]
        opening = played.opening
        if not played.drafts:
            played.opening = replace(opening, token_ids=opening.token_ids + commit.token_ids, plan=commit.plan)
        arrives_ns = self.events.now_ns + self._one_way_ns
        if commit.finish_reason:
            del self._played[number]
            for drafting in self._drafting:
                self.events.at(arrives_ns, partial(drafting.close, number))
        elif played.drafts:
            for drafting in self._drafting:
                self.events.at(arrives_ns, partial(drafting.hear, number, commit.advance))
        elif commit.plan.budget:
            self.events.at(arrives_ns, partial(self._draft, number))
        played.commits(commit)
