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
        prefilling = [session for session, _ in unfed if session.prefill_tokens > 0]
        ready = [(session, tokens[:most_rows]) for session, tokens in unfed if session.prefill_tokens <= 0]
        if prefilling:
            self._prefill(prefilling[0])
        if ready:
            self._run_pass(ready)
        return 0

    def _prefill(self, session: DrafterSession) -> None:
        """Feed a chunk of the prompt."""
        start = len(session.fed)
        chunk = session.ledger[start : start + min(self._runner.chunk_tokens, session.prefill_tokens)]
        self._runner.prefill(Rows(session.slot, start, tuple(chunk)))
        session.fed += chunk
        self._yield_turn(session)

    def _run_pass(self, batch: list[tuple[DrafterSession, list[int]]]) -> None:
        """Feed each session's tokens; those that have none left to feed then draw their next one."""
        start_ns = time.monotonic_ns()
        logits = self._runner.forward(
            [Rows(session.slot, len(session.fed), tuple(tokens)) for session, tokens in batch]
        )
        for session, tokens in batch:
            session.fed += tokens
            self._yield_turn(session)
        ends = accumulate(len(tokens) for _, tokens in batch)
        drawing = [
            (session, end - 1) for (session, _), end in zip(batch, ends, strict=True) if session.fed == session.path
        ]
        if not drawing:
            return
        draws = [
            Draw(session.opening.sampling, session.noise, position=len(session.fed), rows=1) for session, _ in drawing
        ]
        drawn, _ = draw_rows(logits[[row for _, row in drawing]], draws)
        token_ids = drawn.tolist()
        draft_ns = time.monotonic_ns() - start_ns
        for (session, _), token_id in zip(drawing, token_ids, strict=True):
            session.draft(token_id, draft_ns)

    def _yield_turn(self, session: DrafterSession) -> None:
        """Move a session that was served behind the others, so that none starves."""
        self._sessions[session.slot] = self._sessions.pop(session.slot)
