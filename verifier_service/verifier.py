"""What the engine thread runs: prefill, and one ragged pass over every session that is due."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from sybil_engine.errors import Unavailable
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import ModelRunner
from sybil_engine.noise import NoiseTape
from sybil_engine.sampling import Draw, draw_rows
from sybil_engine.serving.opening import check_opening
from sybil_engine.types import Commit, ModelDescription, PassTimings, SessionOpen, Speculation
from verifier_service.choice import Choice, launch_rule
from verifier_service.pace import Pace, PassTimes
from verifier_service.session import VerifierSession


@dataclass(frozen=True, slots=True)
class Share:
    """One session's rows in a pass: committed tokens whose cells are not filled yet, then drafted ones.

    Attributes:
        drafted: judged in this pass. None when the committed tokens alone fill the share: then nothing is drawn.
    """

    session: VerifierSession
    committed: tuple[int, ...]
    drafted: tuple[int, ...] | None

    @property
    def rows(self) -> Rows:
        return Rows(self.session.slot, self.session.fed_tokens, self.committed + (self.drafted or ()))

    @property
    def drawn_rows(self) -> int:
        """The last committed token's row draws the first token, each drafted token's row the next one."""
        return 0 if self.drafted is None else len(self.drafted) + 1


class Verifier:
    """Owns the target model; every call comes from the engine's thread.

    Args:
        max_window_tokens: the most drafted tokens that one pass may judge for a session.
    """

    def __init__(self, runner: ModelRunner, description: ModelDescription, max_window_tokens: int) -> None:
        self._runner = runner
        self.description = description
        self._max_window_tokens = min(max_window_tokens, runner.max_rows - 1)
        # In the order in which they were last served.
        self._sessions: dict[int, VerifierSession] = {}
        self._last_pass_end_ns = time.monotonic_ns()
        self._pass_times = PassTimes()
        self._choice = Choice()

    @property
    def open_sessions(self) -> int:
        return len(self._sessions)

    def open(self, opening: SessionOpen, emit: Callable[[Commit | Exception], None]) -> VerifierSession:
        """Take a slot for a session.

        Raises:
            InvalidRequest, ContextExceeded: see `check_opening`.
            Exhausted: every slot is taken.
        """
        vocabulary_size = self.description.vocabulary_size
        session = VerifierSession(
            opening,
            max_position=check_opening(opening, vocabulary_size, self.description.context_tokens),
            vocabulary_size=vocabulary_size,
            slot=self._runner.cache.allocate(),
            rule=launch_rule(opening, self._max_window_tokens, Pace(self._pass_times), self._choice),
            noise=NoiseTape(opening.seed, vocabulary_size, self._runner.cache.keys.device),
            emit=emit,
            now_ns=time.monotonic_ns(),
        )
        self._sessions[session.slot] = session
        if not session.prefill_tokens:
            session.start_waiting(time.monotonic_ns())
        return session

    def close(self, session: VerifierSession) -> None:
        """Free all that a session holds; closing it again changes nothing."""
        if self._sessions.get(session.slot) is session:
            del self._sessions[session.slot]
            self._runner.cache.release(session.slot)

    def fail(self, error: Exception) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            session.emit(Unavailable(f"the verify pass failed ({error}); reopen the session with all committed tokens"))
            self.close(session)

    def step(self) -> float | None:
        """Feed one chunk of a prompt, then run a pass over the sessions that are due; see `Engine.step`."""
        self._prefill_one()
        now_ns = time.monotonic_ns()
        decoding = [session for session in self._sessions.values() if session.prefill_tokens <= 0]
        due = [session for session in decoding if session.due_in_ns(now_ns) <= 0]
        if due:
            self._run_pass(due[: self._runner.max_rows])
        if due or len(decoding) < len(self._sessions):
            return 0
        return min((session.due_in_ns(now_ns) for session in decoding), default=0) / 1e9 if decoding else None

    def _prefill_one(self) -> None:
        session = next((session for session in self._sessions.values() if session.prefill_tokens > 0), None)
        if session is None:
            return
        chunk_tokens = min(self._runner.chunk_tokens, session.prefill_tokens)
        chunk = session.ledger[session.fed_tokens :][:chunk_tokens]
        self._runner.prefill(Rows(session.slot, session.fed_tokens, tuple(chunk)))
        session.fed_tokens += chunk_tokens
        self._yield_turn(session)
        if not session.prefill_tokens:
            session.start_waiting(time.monotonic_ns())

    def _run_pass(self, due: list[VerifierSession]) -> None:
        shares = self._worth_while([self._share(session, self._runner.max_rows // len(due)) for session in due])
        start_ns = time.monotonic_ns()
        gap_ns = start_ns - self._last_pass_end_ns
        waits_ns = [session.launch(start_ns) for session in due]
        logits = self._runner.forward([share.rows for share in shares])
        forward_ns = time.monotonic_ns() - start_ns
        drawn = iter(self._draw(shares, logits))
        for share, wait_ns in zip(shares, waits_ns, strict=True):
            session = share.session
            self._yield_turn(session)
            if share.drafted is None:
                session.fed_tokens += len(share.committed)
                continue
            token_ids, logprobs = next(drawn)
            sampling_ns = time.monotonic_ns() - start_ns - forward_ns
            timings = PassTimings(wait_ns=wait_ns, gap_ns=gap_ns, forward_ns=forward_ns, sampling_ns=sampling_ns)
            commit = session.commit(share.drafted, token_ids, logprobs, timings, time.monotonic_ns())
            if commit.finish_reason:
                self.close(session)
            session.emit(commit)
        self._last_pass_end_ns = time.monotonic_ns()
        self._pass_times.add(len(logits), self._last_pass_end_ns - start_ns)

    def _share(self, session: VerifierSession, most_rows: int) -> Share:
        committed = tuple(session.ledger[session.fed_tokens :][:most_rows])
        if session.fed_tokens + len(committed) < len(session.ledger):
            return Share(session, committed, drafted=None)
        # A pass draws one token beyond the drafted ones: none is judged that the session has no room for.
        room = session.max_position - len(session.ledger) - 1
        most_drafted = min(most_rows - len(committed), session.rule.max_window_tokens, room)
        path = session.tree.best_path()[:most_drafted]
        return Share(session, committed, drafted=tuple(node.token_id for node in path))

    def _worth_while(self, shares: list[Share]) -> list[Share]:
        """Keep the drafted rows that raise the tokens that all sessions together may expect per unit of time.

        A row is worth the chance that everything before it is accepted, and itself. The likeliest come first; once one
        costs more of the pass's time than it brings, none behind it pays. Lockstep asked for its window and gets it.
        """
        rows = sum(len(share.rows.token_ids) for share in shares)
        row_ns = self._pass_times.row_ns
        chances = sorted(
            (
                (share.session.rule.pace.acceptance_rate.value ** (depth + 1), place)
                for place, share in enumerate(shares)
                if share.session.rule.speculation in (Speculation.PIPELINED, Speculation.HEDGED)
                for depth in range(len(share.drafted or ()))
            ),
            reverse=True,
        )
        kept = [len(share.drafted or ()) for share in shares]
        for _, place in chances:
            kept[place] = 0
        rows -= len(chances)
        expected = sum(share.drafted is not None for share in shares) or 1.0
        for chance, place in chances:
            if chance * self._pass_times.expected_ns(rows) < row_ns * expected:
                break
            kept[place] += 1
            rows += 1
            expected += chance
        return [
            share if share.drafted is None else replace(share, drafted=share.drafted[:count])
            for share, count in zip(shares, kept, strict=True)
        ]

    def _draw(self, shares: list[Share], logits: Tensor) -> Iterator[tuple[list[int], list[float]]]:
        """Draw the tokens of each share that draws any, with their log-probabilities if they are asked for."""
        drawing = [share for share in shares if share.drafted is not None]
        if not drawing:
            return
        ends = accumulate(len(share.rows.token_ids) for share in shares)
        drawn_rows = [
            row for share, end in zip(shares, ends, strict=True) for row in range(end - share.drawn_rows, end)
        ]
        if len(drawn_rows) < len(logits):
            logits = logits[drawn_rows]
        draws = [
            Draw(share.session.opening.sampling, share.session.noise, len(share.session.ledger), share.drawn_rows)
            for share in drawing
        ]
        drawn, shaped = draw_rows(logits, draws)
        token_ids = drawn.tolist()
        start = 0
        for share in drawing:
            rows = slice(start, start + share.drawn_rows)
            logprobs: list[float] = []
            if share.session.opening.logprobs:
                logprobs = torch.log_softmax(shaped[rows], dim=-1).gather(-1, drawn[rows, None]).squeeze(-1).tolist()
            yield token_ids[rows], logprobs
            start = rows.stop

    def _yield_turn(self, session: VerifierSession) -> None:
        """Move a session that was served behind the others, so that none starves."""
        self._sessions[session.slot] = self._sessions.pop(session.slot)
