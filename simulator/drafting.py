"""The drafter of a simulation: the engine's sessions, and a draft model whose guesses come from traces."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from drafter_service.session import DrafterSession, SessionRoom
from drafter_service.share import MOST_GUESSES, DraftShare, choose_rows
from simulator.events import Events
from simulator.experience import Experience
from simulator.point import Point
from simulator.processors import Processors
from simulator.trace import Trace
from simulator.verifying import ANY_TOKEN, PROMPT_CHUNK
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.prefill import Prefill
from sybil_engine.core.session import WHOLE, Advance, DrafterShare, SessionOpen
from sybil_engine.core.types import Block
from sybil_engine.sampling.draw import Guess

_MOST_ROWS = 64
# As in the drafter's engine.
_BRANCH_CELLS = 128


class _Guessing:
    """A session, and the draft model's guesses in it.

    Attributes:
        guesses: [tokens], at each position after the prompt.
        unheard: commits that arrived during a pass.
    """

    def __init__(self, session: DrafterSession, guesses: list[tuple[Guess, ...]]) -> None:
        self.session = session
        self.guesses = guesses
        self.unheard: list[Advance] = []

    def hear(self) -> None:
        """Handle the commits that arrived."""
        for advance in self.unheard:
            self.session.advance(advance)
        self.unheard.clear()

    def following(self, share: DraftShare) -> Iterator[tuple[Guess, ...]]:
        """The guesses after each guessing row."""
        count = MOST_GUESSES if self.session.growth.hedges else 1
        for position in share.rows.positions[-share.guessing_rows :]:
            yield self.guesses[position + 1 - self.session.ledger.prompt_tokens][:count]


class Drafting:
    """Runs draft passes in virtual time, in the order in which the drafter's engine does.

    Commits are handled between passes, and blocks are sent when the next pass starts. After a wrong guess the drafter
    repeats the trace's guess at the same position: the trace holds nothing else, and no token after a wrong guess is
    ever committed.

    Args:
        send: takes the blocks of each push, with their session's number.
        share: of the work, if several draft for each session.

    Attributes:
        passes: when each draft pass started and ended.
    """

    def __init__(
        self,
        experience: Experience,
        point: Point,
        events: Events,
        processors: Processors,
        send: Callable[[int, Sequence[Block]], None],
        share: DrafterShare = WHOLE,
    ) -> None:
        self._share = share
        self._experience = experience
        self._point = point
        self._events = events
        self._processors = processors
        self._send = send
        # In the order in which they were last served; a session's slot is its number.
        self._guessing: dict[int, _Guessing] = {}
        self._running = False
        self._prefill: Prefill[DrafterSession] = Prefill(PROMPT_CHUNK, PROMPT_CHUNK)
        self.passes: list[tuple[int, int]] = []

    def open(self, number: int, opening: SessionOpen, trace: Trace) -> None:
        """Open a session on the text of a trace."""
        session = DrafterSession(
            replace(opening, share=self._share),
            SessionRoom(number, opening.max_position + _BRANCH_CELLS, opening.max_position, ANY_TOKEN),
            NoiseTape(opening.seed, ANY_TOKEN),
            self._experience.calibrations[opening.sampling.greedy],
            lambda pushed: self._send(number, pushed) if isinstance(pushed, tuple) else None,
            number,
            lambda: True,
            self._experience.draft_registry,
        )
        self._guessing[number] = _Guessing(session, guesses_of(trace))
        self._look()

    def close(self, number: int) -> None:
        """End a session; closing it again changes nothing."""
        self._guessing.pop(number, None)

    def hear(self, number: int, advance: Advance) -> None:
        """Take a commit that arrives now."""
        if number in self._guessing:
            self._guessing[number].unheard.append(advance)
            self._look()

    def _look(self) -> None:
        if not self._running:
            self._step()

    def _step(self) -> None:
        """Handle the commits that arrived; then feed a part of a prompt, or start a pass, if there is one to start."""
        for guessing in self._guessing.values():
            guessing.hear()
        sessions = [each.session for each in self._guessing.values()]
        drafting = [each for each in sessions if each.wants_draft]
        ready = [each for each in drafting if each.prefill_tokens <= 0][:_MOST_ROWS]
        self._running = bool(drafting)
        part = self._prefill.next_part(drafting, due=bool(ready))
        times = self._experience.draft_times
        shares = [] if part else [choose_rows(each, _MOST_ROWS, times, sessions=len(ready)) for each in ready]
        for session in sessions:
            session.push()
        if part:
            self._feed(*part)
        elif shares:
            self._prefill.passed()
            rows = sum(len(share.rows.token_ids) for share in shares)
            self._processors.run(self._point.draft_pass_ns(rows), partial(self._end, shares, rows, self._events.now_ns))

    def _feed(self, session: DrafterSession, tokens: int) -> None:
        session.feed(tokens)
        self._prefill.fed(tokens)
        self._processors.run(self._point.draft_prompt_ns(tokens), self._step)

    def _end(self, shares: Sequence[DraftShare], rows: int, start_ns: int) -> None:
        self.passes.append((start_ns, self._events.now_ns))
        draft_ns = max(1, self._events.now_ns - start_ns)
        if any(share.guessing_rows for share in shares):
            self._experience.draft_times.add(rows, draft_ns)
        for share in shares:
            guessing = self._guessing.get(share.session.slot)
            if guessing and guessing.session is share.session:
                self._yield_turn(share.session)
                if share.guessing_rows:
                    share.session.drafted(share.grow(guessing.following(share)), draft_ns)
        self._step()

    def _yield_turn(self, session: DrafterSession) -> None:
        self._guessing[session.slot] = self._guessing.pop(session.slot)


def guesses_of(trace: Trace) -> list[tuple[Guess, ...]]:
    """[tokens], the guesses at each position of a text, best first; what sampling rules out is none."""
    rows = zip(trace.shared_ids.tolist(), trace.shared_certainties.tolist(), strict=True)
    ranked = ([Guess(*guess) for guess in zip(*row, strict=True)] for row in rows)
    return [(best, *(guess for guess in others if guess.certainty > 0)) for best, *others in ranked]
