"""The verifier of a simulation: the engine's session and row control, and a target whose text comes from the trace."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import empty

from simulator.events import Events
from simulator.experience import Experience
from simulator.point import Point
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import Block, PassTimings
from sybil_engine.sampling.judges.judge import Verdict, Window
from verifier_service.policy.pace import Pace
from verifier_service.policy.rows import RowControl, Share
from verifier_service.policy.rules import rule_for
from verifier_service.session import SessionLimits, VerifierSession

ANY_TOKEN = 2**31
"""A vocabulary that holds every token id of a trace."""

_NOT_READ = empty(0)
# As in the verifier: the most rows of a pass, branches included.
MOST_ROWS = 64


class Verifying:
    """Runs one session's passes in virtual time, in the order in which the verifier's engine does.

    Args:
        text: [tokens], the target's, after the prompt.
        most_tokens: the most drafted tokens that a pass may judge.
        send: takes each commit when its pass ends.
    """

    def __init__(
        self,
        opening: SessionOpen,
        text: Sequence[int],
        most_tokens: int,
        experience: Experience,
        point: Point,
        events: Events,
        send: Callable[[Commit], None],
    ) -> None:
        self._text = text
        self._experience = experience
        self._point = point
        self._events = events
        self._send = send
        window_tokens = min(opening.window_tokens or most_tokens, most_tokens)
        pace = Pace(experience.pass_times, experience.alone_times)
        self.session = VerifierSession(
            opening,
            0,
            SessionLimits(opening.max_position, ANY_TOKEN, window_tokens),
            rule_for(opening, window_tokens, pace, experience.choice, by_chance=True),
            NoiseTape(opening.seed, ANY_TOKEN),
            lambda _: None,
            now_ns=0,
            number=0,
            tally=experience.tally,
            has_room=lambda: True,
        )
        self._row_control = RowControl(MOST_ROWS, experience.pass_times)
        self._running = False

    def hear(self, blocks: Sequence[Block]) -> None:
        """Take blocks that arrive now."""
        for block in blocks:
            self.session.offer(block, self._events.now_ns)
        self.look()

    def look(self) -> None:
        """Start a pass if one is due, after everything that arrives at this moment."""
        self._events.at(self._events.now_ns, self._start_if_due, last=True)

    def _start_if_due(self) -> None:
        if self._running:
            return
        now_ns = self._events.now_ns
        due_in_ns = self.session.due_in_ns(now_ns)
        if due_in_ns > 0:
            self._events.at(now_ns + due_in_ns, self._start_if_due, last=True)
            return
        self._running = True
        (shares,) = self._row_control.choose([self.session])
        rows = sum(share.rows for share in shares)
        timings = PassTimings(wait_ns=self.session.launch(now_ns), forward_ns=self._point.pass_ns(rows))
        self._events.at(now_ns + timings.forward_ns, partial(self._end, shares, rows, timings), last=True)

    def _end(self, shares: Sequence[Share[VerifierSession]], rows: int, timings: PassTimings) -> None:
        """Judge and commit a pass. Blocks that arrived while it ran are in the tree by now."""
        session = self.session
        judged = [(share, self._judge(share)) for share in shares]
        trunk, verdict = judged[0]
        session.learn(trunk.path or (), verdict)
        best, verdict = max(judged, key=lambda each: each[1].accepted)
        beside_drafter = session.plan.speculation.drafts_ahead
        plain_ns = session.pace.alone_times.expected_ns(trunk.committed_tokens)
        commit = session.commit(best.path or (), verdict, (), timings, self._events.now_ns, plain_ns)
        times = self._experience.pass_times if beside_drafter else self._experience.alone_times
        times.add(rows, timings.forward_ns)
        self._send(commit)
        self._running = bool(commit.finish_reason)
        self.look()

    def _judge(self, share: Share[VerifierSession]) -> Verdict:
        """Let the session's judge compare a path with the target's tokens."""
        session, path = self.session, share.path or ()
        written = len(session.ledger) - session.ledger.prompt_tokens
        drawn = self._text[written : written + len(path) + 1]
        drafted = [node.token_id for node in path]
        return session.judge.judge(Window(session.opening.seed, len(session.ledger), drafted, (), drawn, _NOT_READ))
