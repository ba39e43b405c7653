"""The drafter's engine: feeds prompts, and runs ragged passes that grow the sessions' draft trees."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count, product

from torch import Tensor

from drafter_service.calibration import Calibration
from drafter_service.session import DrafterSession, SessionRoom
from drafter_service.share import MOST_GUESSES, DraftShare, choose_rows
from sybil_engine.core.errors import Unavailable
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.occupancy import Occupancy
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.prefill import Prefill
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import AcceptanceRule, Block, ModelDescription
from sybil_engine.models.residency import Residency
from sybil_engine.models.runner import Runner
from sybil_engine.proposers.proposer import ServiceKind
from sybil_engine.proposers.registry import Registry
from sybil_engine.sampling.draw import Draw, Guess, draw_cut_row, rank_rows
from sybil_engine.serving.metrics import PassMetrics
from sybil_engine.serving.opening import check_opening

BRANCH_CELLS = 128


class Drafter:
    """Owns the draft model; every call comes from the engine's thread.

    Args:
        prefill_share: parts of prompts that are fed before each pass, see `Prefill`.

    Attributes:
        passes: the times and rows of its passes.
        registry: the proposers that run here, because they may not run in the verifier's process.
    """

    def __init__(self, runner: Runner, description: ModelDescription, prefill_share: float = 1.0) -> None:
        self._runner = runner
        self._pass_times = PassTimes()
        # Greedy and sampled sessions apart, and by acceptance rule: each makes certainty mean something else.
        self._calibrations = {kind: Calibration() for kind in product((False, True), AcceptanceRule)}
        self.registry = Registry(ServiceKind.DRAFTER)
        self.description = replace(description, proposers=self.registry.names)
        # In the order in which they were last served.
        self._sessions: dict[int, DrafterSession] = {}
        self._numbers = count()
        prefill: Prefill[DrafterSession] = Prefill(runner.pool.page_cells, runner.prefill_tokens, prefill_share)
        self._residency = Residency(runner, prefill)
        self.passes = PassMetrics()

    @property
    def open_sessions(self) -> int:
        return len(self._sessions)

    @property
    def occupancy(self) -> Occupancy:
        """How its sessions use the cache now; any thread may ask."""
        return self._residency.occupancy(list(self._sessions.values()))

    def open(
        self,
        opening: SessionOpen,
        emit: Callable[[tuple[Block, ...] | Exception], None],
        has_room: Callable[[], bool] = lambda: True,
    ) -> DrafterSession:
        """Take a slot for a session; see `SessionEngine.open`.

        Raises:
            InvalidRequest, ContextExceeded: see `check_opening`.
            Exhausted: every slot is taken.
        """
        vocabulary_size = self.description.vocabulary_size
        max_position = check_opening(opening, vocabulary_size, self.description.context_tokens)
        # Those of its own positions, and what the context leaves to hedges.
        cells = max_position + self._runner.tree_cells - self._runner.context_tokens
        self._residency.check(cells)
        noise = NoiseTape(opening.seed, vocabulary_size, self._runner.device)
        room = SessionRoom(self._runner.pool.allocate(), cells, max_position, vocabulary_size)
        calibration = self._calibrations[opening.sampling.greedy, opening.acceptance_rule]
        session = DrafterSession(opening, room, noise, calibration, emit, next(self._numbers), has_room, self.registry)
        self._sessions[session.slot] = session
        return session

    def close(self, session: DrafterSession) -> None:
        """Free all that a session holds; closing it again changes nothing."""
        if self._sessions.get(session.slot) is session:
            del self._sessions[session.slot]
            self._runner.pool.release(session.slot)
            session.proposals.close()

    def fail(self, error: Exception) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            session.emit(Unavailable(f"the draft pass failed ({error}); reopen the session with all committed tokens"))
            self.close(session)

    def step(self) -> float | None:
        """Feed a part of a prompt; or else grow the sessions' draft trees by one pass. See `Engine.step`."""
        drafting = self._drafting()
        ready = [session for session in drafting if session.prefill_tokens <= 0][: self._runner.max_rows]
        if len(ready) < len(drafting):
            self._push()
            if self._residency.feed(drafting, due=bool(ready)):
                return 0
        if ready:
            most_rows, times = self._runner.max_rows, self._pass_times
            self._run_pass([choose_rows(session, most_rows, times, sessions=len(ready)) for session in ready])
            self._residency.passed()
            return 0
        self._push()
        return None

    def _drafting(self) -> list[DrafterSession]:
        """The sessions that want to draft and hold the cells for a pass, the one served longest ago first."""
        sessions = self._sessions.values()
        wanting = [session for session in sessions if session.wants_draft and session.has_room()]
        waiting = [session for session in wanting if not session.resident]
        self._residency.start(waiting, sessions)
        for session in wanting:
            self._residency.hold(session, session.next_cells(self._runner.max_rows), sessions)
        return [session for session in wanting if session.resident]

    def _push(self) -> None:
        """Push what was drafted. Called just before a pass, so that serialization overlaps with it."""
        for session in self._sessions.values():
            session.push()

    def _run_pass(self, shares: list[DraftShare]) -> None:
        """Feed each session's rows, and guess the next tokens; a session that is still catching up guesses nothing."""
        start_ns = time.monotonic_ns()
        prepared = self._runner.prepare_tree([share.rows for share in shares])
        self._push()
        logits = self._runner.forward_tree(prepared)
        guesses = self._guess(shares, logits)
        draft_ns = time.monotonic_ns() - start_ns
        self.passes.ran(len(logits), draft_ns)
        if guesses:
            self._pass_times.add(len(logits), draft_ns)
        following = iter(guesses)
        for share in shares:
            self._yield_turn(share.session)
            if share.guessing_rows:
                share.session.drafted(share.grow(following), draft_ns)

    def _guess(self, shares: list[DraftShare], logits: Tensor) -> list[tuple[Guess, ...]]:
        """The guesses after each guessing row, best first."""
        draws: list[Draw] = []
        rows: list[int] = []
        end = 0
        for share in shares:
            end += len(share.rows.token_ids)
            rows += range(end - share.guessing_rows, end)
            positions = share.rows.positions[len(share.rows.positions) - share.guessing_rows :]
            opening, noise = share.session.opening, share.session.noise
            draws += [Draw(opening.sampling, noise, position + 1, rows=1) for position in positions]
        if not draws:
            return []
        if len(rows) < len(logits):
            logits = logits[rows]
        guesses = MOST_GUESSES if any(share.session.growth.hedges for share in shares) else 1
        ranked = rank_rows(logits, draws, guesses)
        cut = {id(share.session.noise) for share in shares if share.session.judge.wants_distributions}
        for row, draw in enumerate(draws):
            if id(draw.noise) in cut:
                ranked[row] = (draw_cut_row(logits[row], draw),)
        return ranked

    def _yield_turn(self, session: DrafterSession) -> None:
        """Move a session that was served to the end of the queue, so that none starves."""
        self._sessions[session.slot] = self._sessions.pop(session.slot)
