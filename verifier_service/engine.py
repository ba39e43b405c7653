"""The verifier's engine: feeds prompts, and runs ragged passes over the sessions that are due."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from torch import Tensor

from sybil_engine.core.errors import Unavailable
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.occupancy import Occupancy
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.prefill import Prefill, first_come
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import ModelDescription, PassTimings, Speculation
from sybil_engine.models.residency import Residency
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import Runner
from sybil_engine.proposers.proposer import ServiceKind
from sybil_engine.proposers.registry import Registry
from sybil_engine.sampling.judges import judge_for
from sybil_engine.serving.opening import check_opening
from verifier_service.judging import Judged, SessionShares, committed_logprobs, judge_rows
from verifier_service.policy.choice import Choice
from verifier_service.policy.load import Load, SharedPass
from verifier_service.policy.pace import Pace
from verifier_service.policy.rows import CELLS_A_BRANCH, MOST_BRANCHES, RowControl, Share
from verifier_service.policy.rules import rule_for
from verifier_service.session import SessionLimits, VerifierSession, due_sessions
from verifier_service.tally import Tally

BRANCH_CELLS = MOST_BRANCHES * CELLS_A_BRANCH


@dataclass(frozen=True, slots=True)
class _UncommittedPass:
    """A pass that has run and is not committed yet.

    Attributes:
        shares: of each session that took part.
        judged: the same with their verdicts; empty for a session that drew nothing.
        shaped: [drawn rows, vocabulary], the shaped logits.
        waits_ns: how long each session waited for the pass.
        start_ns, end_ns: when it began, and when it had drawn and judged.
        gap_ns, forward_ns: as in PassTimings.
        prefill_ns: time spent on prompts before it.
        padded_rows: rows that it computed, padding included.
        beside_drafter: whether a drafter worked ahead meanwhile.
    """

    shares: Sequence[SessionShares]
    judged: list[list[Judged]]
    shaped: Tensor
    waits_ns: list[int]
    start_ns: int
    end_ns: int
    gap_ns: int
    forward_ns: int
    prefill_ns: int
    padded_rows: int
    beside_drafter: bool


class Verifier:
    """Owns the target model; every call comes from the engine's thread.

    Args:
        max_window_tokens: the most drafted tokens that one pass may judge for a session.
        prefill_share: parts of prompts that are fed before each pass, see `Prefill`.
        choose_prompt: see `Prefill`.
        suffix_memory_bytes: see `Registry`.

    Attributes:
        tally: what its passes did.
        registry: the proposers that guess in this process.
        choices: what `auto` has learned where drafters take time from verify passes (True), and elsewhere.
    """

    def __init__(
        self,
        runner: Runner,
        description: ModelDescription,
        max_window_tokens: int,
        prefill_share: float = 1.0,
        choose_prompt: Callable[[Sequence[VerifierSession]], VerifierSession] = first_come,
        suffix_memory_bytes: int = 0,
    ) -> None:
        self._runner = runner
        self.registry = Registry(ServiceKind.VERIFIER, suffix_memory_bytes)
        self.description = replace(description, proposers=self.registry.names)
        # In the order in which they were last served.
        self._sessions: dict[int, VerifierSession] = {}
        self._numbers = count()
        prefill = Prefill(runner.pool.page_cells, runner.prefill_tokens, prefill_share, choose_prompt)
        self._residency = Residency(runner, prefill)
        self._last_pass_end_ns = time.monotonic_ns()
        # Time spent on prompts since the last pass.
        self._prefill_ns = 0
        # Passes during which drafters work ahead are measured apart from the others.
        self._pass_times, self._alone_times = PassTimes(runner.padded), PassTimes(runner.padded)
        self._max_window_tokens = min(max_window_tokens, runner.max_rows - 1)
        self._row_control = RowControl(runner.max_rows, self._pass_times)
        self._load = Load()
        # Kept apart: what is learned in one of these places does not hold in the other.
        self.choices = {
            shared: Choice(
                shares_processor=shared, pass_times=self._pass_times, alone_times=self._alone_times, load=self._load
            )
            for shared in (False, True)
        }
        self._made: _UncommittedPass | None = None
        self.tally = Tally()

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
        emit: Callable[[Commit | Exception], None],
        has_room: Callable[[], bool] = lambda: True,
    ) -> VerifierSession:
        """Take a slot for a session; see `SessionEngine.open`.

        Raises:
            InvalidRequest, ContextExceeded: see `check_opening`.
            Exhausted: every slot is taken.
        """
        vocabulary_size = self.description.vocabulary_size
        max_position = check_opening(opening, vocabulary_size, self.description.context_tokens)
        self._residency.check(max_position + self._runner.max_rows + len(self._runner.branch_cells))
        window_tokens = min(opening.window_tokens or self._max_window_tokens, self._max_window_tokens)
        rule = rule_for(
            opening,
            window_tokens,
            Pace(self._pass_times, self._alone_times, self._load, shares_processor=opening.shares_processor),
            self.choices[opening.shares_processor],
            by_chance=not judge_for(opening).wants_distributions,
        )
        session = VerifierSession(
            opening,
            self._runner.pool.allocate(),
            SessionLimits(max_position, vocabulary_size, window_tokens),
            rule,
            NoiseTape(opening.seed, vocabulary_size, self._runner.device),
            emit,
            time.monotonic_ns(),
            next(self._numbers),
            tally=self.tally,
            registry=self.registry,
            has_room=has_room,
        )
        self._sessions[session.slot] = session
        return session

    def close(self, session: VerifierSession) -> None:
        """Free all that a session holds; closing it again changes nothing."""
        if self._sessions.get(session.slot) is session:
            del self._sessions[session.slot]
            self._runner.pool.release(session.slot)
            session.ensemble.close()

    def fail(self, error: Exception) -> None:
        """End every session."""
        self._made = None
        for session in list(self._sessions.values()):
            session.emit(Unavailable(f"the verify pass failed ({error}); reopen the session with all committed tokens"))
            self.close(session)

    def step(self) -> float | None:
        """Commit the last pass; or, if that is done, feed a part of a prompt; or else run a pass over the sessions due.

        Each is a step of its own, so that blocks that arrived meanwhile are in the draft trees by then, and what comes
        next can take them into account. See `Engine.step`.
        """
        if self._made:
            made, self._made = self._made, None
            self._commit(made)
            return 0
        now_ns = time.monotonic_ns()
        self._start_sessions(now_ns)
        due = self._due(now_ns)
        if self._feed_prompt(now_ns, due=bool(due)):
            return 0
        if held := self._hold_cells(due):
            for session in held:
                session.propose()
            self._made = self._run(held, [self._placed(own) for own in self._row_control.choose(held)])
            self._residency.passed()
            return 0
        # Where a session was evicted, another one may go on.
        return 0 if due else self._idle_s(now_ns)

    def _start_sessions(self, now_ns: int) -> None:
        """Let sessions start, as far as there is room."""
        sessions = self._sessions.values()
        waiting = [session for session in sessions if not session.resident]
        for session in self._residency.start(waiting, sessions):
            if not session.prefill_tokens:
                session.start_waiting(now_ns)

    def _due(self, now_ns: int) -> list[VerifierSession]:
        """The sessions of the next pass, the one served longest ago first."""
        return due_sessions(self._sessions.values(), now_ns)[: self._runner.max_rows]

    def _hold_cells(self, due: Sequence[VerifierSession]) -> list[VerifierSession]:
        """Reserve the cells of the next pass; those that are left without take no part."""
        sessions = self._sessions.values()
        for session in due:
            end = len(session.ledger) + self._max_window_tokens
            self._residency.hold(session, range(session.fed_tokens, end), sessions)
        return [session for session in due if session.resident]

    def _idle_s(self, now_ns: int) -> float | None:
        """Time until a session is due; None if nobody is ready."""
        ready = [session for session in self._sessions.values() if session.ready]
        # A session that paused when the pass was chosen may go on by now.
        return max(0, min(session.due_in_ns(now_ns) for session in ready)) / 1e9 if ready else None

    def _feed_prompt(self, before_ns: int, *, due: bool) -> bool:
        """Feed a part of a prompt, unless a pass comes first. Returns whether there was one to feed."""
        sessions = [session for session in self._sessions.values() if session.resident]
        session = self._residency.feed(sessions, due=due)
        if session is None:
            return False
        now_ns = time.monotonic_ns()
        self._prefill_ns += now_ns - before_ns
        if not session.prefill_tokens:
            session.start_waiting(now_ns)
        return True

    def _run(self, due: Sequence[VerifierSession], shares: Sequence[SessionShares]) -> _UncommittedPass:
        """Run one pass, draw, and judge."""
        start_ns = time.monotonic_ns()
        gap_ns = start_ns - self._last_pass_end_ns
        waits_ns = [session.launch(start_ns) for session in due]
        every = [share for own in shares for share in own]
        batch = [self._rows(share) for share in every]
        beside_drafter = any(session.plan.speculation.drafts_ahead for session in self._sessions.values())
        logits = self._runner.forward(batch, alone=not beside_drafter)
        forward_ns = time.monotonic_ns() - start_ns
        every_judged, shaped = judge_rows(every, logits)
        judged = iter(every_judged)
        made = _UncommittedPass(
            shares,
            [[next(judged) for share in own if share.drawn_rows] for own in shares],
            shaped,
            waits_ns,
            start_ns,
            time.monotonic_ns(),
            gap_ns,
            forward_ns,
            self._prefill_ns,
            self._runner.padded_rows(batch),
            beside_drafter,
        )
        self._prefill_ns = 0
        return made

    def _placed(self, shares: SessionShares) -> SessionShares:
        """A session's shares without the branches that there are no cells for."""
        pool = self._runner.pool
        return [
            share
            for share in shares
            if (first := self._first_cell(share.branch)) is None
            or pool.reserve(share.session.slot, range(first, first + share.rows))
        ]

    def _rows(self, share: Share[VerifierSession]) -> Rows:
        session = share.session
        committed = session.ledger[session.fed_tokens :][: share.committed_tokens]
        token_ids = (*committed, *(node.token_id for node in share.path or ()))
        return Rows(session.slot, session.fed_tokens, token_ids, self._first_cell(share.branch))

    def _first_cell(self, branch: int) -> int | None:
        """Where a branch's cells lie; None for the trunk, whose cells lie where its positions are."""
        return self._runner.branch_cells.start + CELLS_A_BRANCH * (branch - 1) if branch else None

    def _commit(self, made: _UncommittedPass) -> None:
        """Commit a pass's verdicts, except for sessions that have ended since."""
        since_ns, committed_tokens = time.monotonic_ns(), self.tally.committed_tokens
        ready = [session for session in self._sessions.values() if session.ready]
        decided = []
        for shares, judged, wait_ns in zip(made.shares, made.judged, made.waits_ns, strict=True):
            session = shares[0].session
            if self._sessions.get(session.slot) is not session:
                continue
            self._yield_turn(session)
            if judged:
                # If branches reach equally far, `max` takes the trunk: its cells are already in place.
                decided.append((shares, judged[0], max(judged, key=lambda each: each.verdict.accepted), wait_ns))
            else:
                session.fed_tokens += shares[0].committed_tokens
        best = [each for _, _, each, _ in decided]
        self._keep([each.share for each in best if each.share.branch])
        logprobs = committed_logprobs(best, made.shaped)
        for (shares, trunk, chosen, wait_ns), of_session in zip(decided, logprobs, strict=True):
            self._commit_session(made, shares, trunk, chosen, of_session, wait_ns)
        self._last_pass_end_ns = time.monotonic_ns()
        times = self._pass_times if made.beside_drafter else self._alone_times
        # Leaves out the messages that were handled in between.
        pass_ns = made.end_ns - made.start_ns + self._last_pass_end_ns - since_ns
        times.add(made.padded_rows, pass_ns)
        self.tally.passes.ran(made.padded_rows, pass_ns)
        self._learn(made, ready, self.tally.committed_tokens - committed_tokens)

    def _learn(self, made: _UncommittedPass, ready: Sequence[VerifierSession], tokens: int) -> None:
        """Learn from what all sessions did together.

        Args:
            ready: those that could take part in the pass.
            tokens: that it committed.
        """
        served = len(made.shares)
        idle_ns = min(made.gap_ns - made.prefill_ns, max(made.waits_ns))
        elapsed_ns = idle_ns + self._last_pass_end_ns - made.start_ns
        shared = SharedPass(max(served, len(ready)), served, tokens, elapsed_ns)
        self._load.saw(shared)
        adaptive = Counter(
            session.opening.shares_processor
            for session in ready
            if session.opening.plan.speculation is Speculation.AUTO
        )
        for shares_processor, choice in self.choices.items():
            choice.saw(shared, adaptive[shares_processor])

    def _commit_session(
        self,
        made: _UncommittedPass,
        shares: SessionShares,
        trunk: Judged,
        best: Judged,
        logprobs: Sequence[float],
        wait_ns: int,
    ) -> None:
        session = shares[0].session
        session.learn(trunk.share.path or (), trunk.verdict)
        now_ns = time.monotonic_ns()
        rows = sum(share.rows for own in made.shares for share in own)
        speculation = session.plan.speculation
        plain_rows = rows - sum(share.rows for share in shares) + shares[0].committed_tokens
        commit = session.commit(
            best.share.path or (),
            best.verdict,
            logprobs,
            PassTimings(wait_ns, made.gap_ns, made.forward_ns, now_ns - made.start_ns - made.forward_ns),
            now_ns,
            made.prefill_ns + session.pace.alone_times.expected_ns(plain_rows),
        )
        self.tally.committed(session.opening.plan.speculation, speculation, commit)
        if commit.finish_reason:
            self.close(session)
        session.emit(commit)

    def _keep(self, branches: SessionShares) -> None:
        """Move the cells of the branches that are committed to the cells of their positions."""
        if branches:
            self._runner.keep_branches([self._rows(share) for share in branches])

    def _yield_turn(self, session: VerifierSession) -> None:
        """Move a session that was served to the end of the queue, so that none starves."""
        self._sessions[session.slot] = self._sessions.pop(session.slot)
