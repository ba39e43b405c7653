"""What the engine thread runs: prefill, and one ragged pass that extends every trunk by a token."""

import time
from collections.abc import Callable
from itertools import accumulate

from drafter_service.session import DrafterSession
from sybil_engine.errors import Unavailable
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import ModelRunner
from sybil_engine.noise import NoiseTape
from sybil_engine.sampling import Draw, draw_rows
from sybil_engine.serving.opening import check_opening
from sybil_engine.types import Block, ModelDescription, SessionOpen


class Drafter:
    """Owns the draft model; every call comes from the engine's thread."""

    def __init__(self, runner: ModelRunner, description: ModelDescription) -> None:
        self._runner = runner
        self.description = description
        # In the order in which they were last served.
        self._sessions: dict[int, DrafterSession] = {}

    @property
    def open_sessions(self) -> int:
        return len(self._sessions)

    def open(self, opening: SessionOpen, emit: Callable[[Block | Exception], None]) -> DrafterSession:
        """Take a slot for a session.

        Raises:
            InvalidRequest, ContextExceeded: see `check_opening`.
            Exhausted: every slot is taken.
        """
        vocabulary_size = self.description.vocabulary_size
        max_position = check_opening(opening, vocabulary_size, self.description.context_tokens)
        noise = NoiseTape(opening.seed, vocabulary_size, self._runner.cache.keys.device)
        session = DrafterSession(opening, self._runner.cache.allocate(), max_position, vocabulary_size, noise, emit)
        self._sessions[session.slot] = session
        return session

    def close(self, session: DrafterSession) -> None:
        """Free all that a session holds; closing it again changes nothing."""
        if self._sessions.get(session.slot) is session:
            del self._sessions[session.slot]
            self._runner.cache.release(session.slot)

    def fail(self, error: Exception) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            session.emit(Unavailable(f"the draft pass failed ({error}); reopen the session with all committed tokens"))
            self.close(session)

    def step(self) -> float | None:
        """Extend the trunk of every session that has budget by a token; see `Engine.step`."""
        drafting = [session for session in self._sessions.values() if session.wants_draft]
        if not drafting:
            return None
        turn = drafting[: self._runner.max_rows]
        unfed = [(session, session.forget_disagreeing()) for session in turn]
        most_rows = self._runner.max_rows // len(turn)
        long = next(((session, tokens) for session, tokens in unfed if len(tokens) > most_rows), None)
        if long is not None:
            self._prefill(*long)
        short = [(session, tokens) for session, tokens in unfed if len(tokens) <= most_rows]
        if short:
            self._run_pass(short)
        return 0

    def _prefill(self, session: DrafterSession, unfed: list[int]) -> None:
        """Feed a chunk; the last token stays for the pass that draws the next one."""
        chunk = unfed[: min(self._runner.chunk_tokens, len(unfed) - 1)]
        self._runner.prefill(Rows(session.slot, len(session.fed), tuple(chunk)))
        session.fed += chunk
        self._yield_turn(session)

    def _run_pass(self, unfed: list[tuple[DrafterSession, list[int]]]) -> None:
        start_ns = time.monotonic_ns()
        batch = [Rows(session.slot, len(session.fed), tuple(tokens)) for session, tokens in unfed]
        logits = self._runner.forward(batch)
        last_rows = [end - 1 for end in accumulate(len(rows.token_ids) for rows in batch)]
        draws = [
            Draw(session.opening.sampling, session.noise, len(session.fed) + len(tokens), rows=1)
            for session, tokens in unfed
        ]
        drawn, _ = draw_rows(logits[last_rows] if len(last_rows) < len(logits) else logits, draws)
        token_ids = drawn.tolist()
        draft_ns = time.monotonic_ns() - start_ns
        for (session, tokens), token_id in zip(unfed, token_ids, strict=True):
            session.fed += tokens
            session.draft(token_id, draft_ns)
            self._yield_turn(session)

    def _yield_turn(self, session: DrafterSession) -> None:
        """Move a session that was served behind the others, so that none starves."""
        self._sessions[session.slot] = self._sessions.pop(session.slot)
