"""The verifier of a simulation: the engine's sessions and row control, and a target whose texts come from traces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from sched import Event

from torch import empty

from simulator.events import Events
from simulator.experience import Experience
from simulator.point import Point
from simulator.processors import Processors
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.prefill import Prefill
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import Block, PassTimings, Speculation
from sybil_engine.sampling.judges.judge import Verdict, Window
from verifier_service.policy.load import SharedPass
from verifier_service.policy.rows import RowControl, Share
from verifier_service.policy.rules import rule_for
from verifier_service.session import SessionLimits, VerifierSession, due_sessions
from verifier_service.tally import Tally

ANY_TOKEN = 2**31
"""A vocabulary that holds every token id of a trace."""

_NOT_READ = empty(0)
# As in the verifier: the most rows of a pass, branches included.
MOST_ROWS = 64
PROMPT_CHUNK = 64
"""The most prompt tokens that are fed at once."""


class _Speaking:
    """A session and the text that the target says in it.

    Attributes:
        text: [tokens], the target's, after the prompt.
    """

    def __init__(self, session: VerifierSession, text: Sequence[int]) -> None:
        self.session = session
        self.text = text

    def judge(self, share: Share[VerifierSession]) -> Verdict:
        """Let the session's judge compare a path with the target's tokens."""
        session, path = self.session, share.path or ()
        written = len(session.ledger) - session.ledger.prompt_tokens
        drawn = self.text[written : written + len(path) + 1]
        drafted = [node.token_id for node in path]
        return session.judge.judge(Window(session.opening.seed, len(session.ledger), drafted, (), drawn, _NOT_READ))


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass that runs.

    Attributes:
        waits_ns: how long each session waited for it.
        prefill_ns: time spent on prompts before it.
        beside_drafter: whether a drafter works ahead meanwhile.
        sessions: that could take part.
    """

    shares: Sequence[Sequence[Share[VerifierSession]]]
    waits_ns: Sequence[int]
    start_ns: int
    prefill_ns: int
    beside_drafter: bool
    sessions: Sequence[VerifierSession]

    @property
    def rows(self) -> int:
        return sum(share.rows for own in self.shares for share in own)


class Verifying:
    """Runs passes in virtual time, in the order in which the verifier's engine does.

    Args:
        most_tokens: the most drafted tokens that a pass may judge for a session.
        send: takes each commit when its pass ends, with its session's number.
    """

    def __init__(
        self,
        most_tokens: int,
        experience: Experience,
        point: Point,
        events: Events,
        processors: Processors,
        send: Callable[[int, Commit], None],
    ) -> None:
        self._most_tokens = most_tokens
        self._experience = experience
        self._point = point
        self._events = events
        self._processors = processors
        self._send = send
        self._row_control = RowControl(MOST_ROWS, experience.pass_times)
        # In the order in which they were last served; a session's slot is its number.
        self._speaking: dict[int, _Speaking] = {}
        self._running = False
        self._prefill: Prefill[VerifierSession] = Prefill(PROMPT_CHUNK, PROMPT_CHUNK)
        self._prefill_ns = self._last_end_ns = 0
        self._alarm: Event | None = None
        self._tally = Tally()

    def open(
        self, number: int, opening: SessionOpen, text: Sequence[int], vocabulary_size: int = ANY_TOKEN
    ) -> VerifierSession:
        """Open a session; its text comes after its prompt."""
        experience = self._experience
        window_tokens = min(opening.window_tokens or self._most_tokens, self._most_tokens)
        session = VerifierSession(
            opening,
            number,
            SessionLimits(opening.max_position, ANY_TOKEN, window_tokens),
            rule_for(opening, window_tokens, experience.pace(), experience.choice, by_chance=True),
            NoiseTape(opening.seed, vocabulary_size),
            lambda _: None,
            self._events.now_ns,
            number,
            tally=self._tally,
            registry=experience.registry,
            has_room=lambda: True,
        )
        session.resident = True
        self._speaking[number] = _Speaking(session, text)
        self.look()
        return session

    def hear(self, number: int, blocks: Sequence[Block]) -> None:
        """Take blocks that arrive now; those of a session that has ended are dropped."""
        if number in self._speaking:
            for block in blocks:
                self._speaking[number].session.offer(block, self._events.now_ns)
            self.look()

    def look(self) -> None:
        """Start a pass if one is due, after everything that arrives at this moment."""
        self._events.at(self._events.now_ns, self._step, last=True)

    def _step(self) -> None:
        """Feed a part of a prompt, then run a pass over the sessions that are due."""
        if self._running or not self._speaking:
            return
        now_ns = self._events.now_ns
        sessions = [each.session for each in self._speaking.values()]
        due = due_sessions(sessions, now_ns)[:MOST_ROWS]
        if part := self._prefill.next_part(sessions, due=bool(due)):
            self._feed(*part)
        elif due:
            self._launch(due, sessions)
        else:
            due_ns = now_ns + min(each.due_in_ns(now_ns) for each in sessions)
            if self._alarm and self._alarm in self._events.queue:
                self._events.cancel(self._alarm)
            self._alarm = self._events.at(due_ns, self._step, last=True)

    def _feed(self, session: VerifierSession, tokens: int) -> None:
        self._running = True
        chunk_ns = self._point.prompt_ns(tokens)
        self._processors.run(chunk_ns, partial(self._end_feeding, session, tokens, self._events.now_ns), last=True)

    def _end_feeding(self, session: VerifierSession, tokens: int, start_ns: int) -> None:
        self._prefill_ns += self._events.now_ns - start_ns
        session.feed(tokens)
        self._prefill.fed(tokens)
        if not session.prefill_tokens:
            session.start_waiting(self._events.now_ns)
        self._running = False
        self.look()

    def _launch(self, due: Sequence[VerifierSession], sessions: Sequence[VerifierSession]) -> None:
        self._running = True
        self._prefill.passed()
        now_ns = self._events.now_ns
        beside_drafter = any(each.plan.speculation.drafts_ahead for each in sessions)
        for session in due:
            session.propose()
        shares = self._row_control.choose(due)
        waits_ns = [each.launch(now_ns) for each in due]
        ready = [each for each in sessions if each.ready]
        made = _Pass(shares, waits_ns, now_ns, self._prefill_ns, beside_drafter, ready)
        self._prefill_ns = 0
        self._processors.run(self._point.pass_ns(made.rows), partial(self._end, made), last=True)

    def _end(self, made: _Pass) -> None:
        """Judge and commit a pass. Blocks that arrived while it ran are in the trees by now."""
        commits = [self._commit(made, own, wait_ns) for own, wait_ns in zip(made.shares, made.waits_ns, strict=True)]
        experience = self._experience
        pass_ns = self._events.now_ns - made.start_ns
        shared = SharedPass(
            sessions=len(made.sessions),
            served=len(commits),
            tokens=sum(len(commit.tokens) for _, commit in commits),
            elapsed_ns=pass_ns + min(made.start_ns - self._last_end_ns - made.prefill_ns, max(made.waits_ns)),
        )
        self._last_end_ns = self._events.now_ns
        experience.saw(shared, sum(each.opening.plan.speculation is Speculation.AUTO for each in made.sessions))
        (experience.pass_times if made.beside_drafter else experience.alone_times).add(made.rows, pass_ns)
        for number, commit in commits:
            if commit.finish_reason:
                del self._speaking[number]
            self._send(number, commit)
        self._running = False
        self.look()

    def _commit(self, made: _Pass, shares: Sequence[Share[VerifierSession]], wait_ns: int) -> tuple[int, Commit]:
        session = shares[0].session
        self._yield_turn(session)
        speaking = self._speaking[session.slot]
        judged = [(share, speaking.judge(share)) for share in shares]
        trunk, verdict = judged[0]
        session.learn(trunk.path or (), verdict)
        best, verdict = max(judged, key=lambda each: each[1].accepted)
        now_ns = self._events.now_ns
        timings = PassTimings(wait_ns=wait_ns, forward_ns=now_ns - made.start_ns)
        plain_rows = made.rows - sum(share.rows for share in shares) + trunk.committed_tokens
        plain_ns = made.prefill_ns + session.pace.alone_times.expected_ns(plain_rows)
        return session.slot, session.commit(best.path or (), verdict, (), timings, now_ns, plain_ns)

    def _yield_turn(self, session: VerifierSession) -> None:
        self._speaking[session.slot] = self._speaking.pop(session.slot)
