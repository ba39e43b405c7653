"""The drafter of a simulation: the engine's session, and a draft model whose guesses come from the trace."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from drafter_service.session import DrafterSession, SessionRoom
from drafter_service.share import MOST_GUESSES, DraftShare, choose_rows
from simulator.events import Events
from simulator.experience import Experience
from simulator.point import Point
from simulator.trace import Trace
from simulator.verifying import ANY_TOKEN
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.session import Advance, SessionOpen
from sybil_engine.core.types import Block
from sybil_engine.sampling.draw import Guess

_MOST_ROWS = 64
# As in the drafter's engine.
_BRANCH_CELLS = 128


class Drafting:
    """Runs one session's draft passes in virtual time, in the order in which the drafter's engine does.

    Commits are handled between passes, and blocks are sent when the next pass starts. After a wrong guess the drafter
    repeats the trace's guess at the same position: the trace holds nothing else, and no token after a wrong guess is
    ever committed.

    Args:
        send: takes the blocks of each push.

    Attributes:
        passes: when each draft pass started and ended.
    """

    def __init__(
        self,
        opening: SessionOpen,
        trace: Trace,
        experience: Experience,
        point: Point,
        events: Events,
        send: Callable[[Sequence[Block]], None],
    ) -> None:
        self._guesses = guesses_of(trace)
        self._pass_times = experience.draft_times
        self._pass_ns = point.draft_ns
        self._events = events
        self._session = DrafterSession(
            opening,
            SessionRoom(0, opening.max_position + _BRANCH_CELLS, opening.max_position, ANY_TOKEN),
            NoiseTape(opening.seed, ANY_TOKEN),
            experience.calibrations[opening.sampling.greedy],
            lambda pushed: send(pushed) if isinstance(pushed, tuple) else None,
            number=0,
            has_room=lambda: True,
        )
        self._unheard: list[Advance] = []
        self._running = False
        self.passes: list[tuple[int, int]] = []

    def hear(self, advance: Advance) -> None:
        """Take a commit that arrives now."""
        self._unheard.append(advance)
        if not self._running:
            self.step()

    def step(self) -> None:
        """Handle the commits that arrived, and start the next pass if there is anything to draft."""
        for advance in self._unheard:
            self._session.advance(advance)
        self._unheard.clear()
        self._running = self._session.wants_draft
        share = choose_rows(self._session, _MOST_ROWS, self._pass_times) if self._running else None
        self._session.push()
        if share:
            start_ns = self._events.now_ns
            self._events.at(start_ns + self._pass_ns, partial(self._end, share, start_ns))

    def _end(self, share: DraftShare, start_ns: int) -> None:
        self.passes.append((start_ns, self._events.now_ns))
        if share.guessing_rows:
            self._pass_times.add(share.guessing_rows, self._pass_ns)
            self._session.drafted(share.grow(self._following(share)), self._pass_ns)
        self.step()

    def _following(self, share: DraftShare) -> Iterator[tuple[Guess, ...]]:
        """The guesses after each guessing row."""
        count = MOST_GUESSES if self._session.growth.hedges else 1
        for position in share.rows.positions[-share.guessing_rows :]:
            yield self._guesses[position + 1 - self._session.ledger.prompt_tokens][:count]


def guesses_of(trace: Trace) -> list[tuple[Guess, ...]]:
    """[tokens], the guesses at each position of a text, best first; what sampling rules out is none."""
    rows = zip(trace.shared_ids.tolist(), trace.shared_certainties.tolist(), strict=True)
    ranked = ([Guess(*guess) for guess in zip(*row, strict=True)] for row in rows)
    return [(best, *(guess for guess in others if guess.certainty > 0)) for best, *others in ranked]
