"""What the engine thread runs: prefill, and one ragged pass over every session that is due."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sybil_engine.core.errors import Unavailable
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.types import Commit, ModelDescription, PassTimings, SessionOpen
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import Runner
from sybil_engine.sampling.acceptance import count_accepted
from sybil_engine.sampling.draw import Draw, draw_rows
from sybil_engine.serving.opening import check_opening
from verifier_service.choice import Choice, launch_rule
from verifier_service.launch import DRAFTING_AHEAD
from verifier_service.pace import Pace
from verifier_service.ratio_test import judge_window
from verifier_service.row_control import RowControl, Share
from verifier_service.session import VerifierSession


@dataclass(frozen=True, slots=True)
class _Judged:
    """A share, and what the target drew at its rows."""

    share: Share
    token_ids: list[int]
    logprobs: list[float]

    @property
    def drafted(self) -> tuple[int, ...]:
        return self.share.drafted or ()

    @property
    def accepted_tokens(self) -> int:
        return count_accepted(self.drafted, self.token_ids)


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass that was made, and is to be judged.

    Attributes:
        chosen: each session's shares.
        judged: the same with what was drawn; none for a session that drew nothing.
        waits_ns: how long each session waited for the pass.
        start_ns, end_ns: when it began, and when it had drawn.
        gap_ns, forward_ns: as in PassTimings.
        prefill_ns: time spent on prompts before it.
        padded_rows: the rows that it computed.
        beside_drafter: whether a drafter worked ahead meanwhile.
    """

    chosen: list[list[Share]]
    judged: list[list[_Judged]]
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
    """

    def __init__(self, runner: Runner, description: ModelDescription, max_window_tokens: int) -> None:
        self._runner = runner
        self.description = description
        # In the order in which they were last served.
        self._sessions: dict[int, VerifierSession] = {}
        self._last_pass_end_ns = time.monotonic_ns()
        # Time spent on prompts since the last pass.
        self._prefill_ns = 0
        # Of passes during which drafters work ahead, and of the others.
        self._pass_times, self._alone_times = PassTimes(runner.padded), PassTimes(runner.padded)
        self._row_control = RowControl(runner, max_window_tokens, self._pass_times)
        # What is learned where drafters take time from verify passes does not hold elsewhere.
        self._choices = {
            shared: Choice(shares_processor=shared, pass_times=self._pass_times) for shared in (False, True)
        }
        self._made: _Pass | None = None

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
            slot=self._runner.allocate(),
            rule=launch_rule(
                opening,
                self._row_control.max_window_tokens,
                Pace(self._pass_times, self._alone_times),
                self._choices[opening.shares_processor],
            ),
            noise=NoiseTape(opening.seed, vocabulary_size, self._runner.device),
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
            self._runner.release(session.slot)

    def fail(self, error: Exception) -> None:
        """End every session."""
        self._made = None
        for session in list(self._sessions.values()):
            session.emit(Unavailable(f"the verify pass failed ({error}); reopen the session with all committed tokens"))
            self.close(session)

    def step(self) -> float | None:
        """Commit what the last pass drew; else feed a part of a prompt, and run a pass over the sessions that are due.

        A pass is judged in a step of its own: what arrived while it ran is in the draft trees by then, and counts when
        its sessions decide how to go on. See `Engine.step`.
        """
        if self._made:
            made, self._made = self._made, None
            self._commit_pass(made)
            return 0
        before_ns = time.monotonic_ns()
        self._prefill_one()
        now_ns = time.monotonic_ns()
        self._prefill_ns += now_ns - before_ns
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
        tokens = min(self._runner.prefill_tokens, session.prefill_tokens)
        part = session.ledger[session.fed_tokens :][:tokens]
        self._runner.prefill(Rows(session.slot, session.fed_tokens, tuple(part)))
        session.fed_tokens += tokens
        self._yield_turn(session)
        if not session.prefill_tokens:
            session.start_waiting(time.monotonic_ns())

    def _run_pass(self, due: list[VerifierSession]) -> None:
        chosen = self._row_control.choose(due)
        shares = [share for session in chosen for share in session]
        start_ns = time.monotonic_ns()
        gap_ns = start_ns - self._last_pass_end_ns
        waits_ns = [session.launch(start_ns) for session in due]
        beside_drafter = any(session.rule.speculation in DRAFTING_AHEAD for session in self._sessions.values())
        batch = [share.rows for share in shares]
        logits = self._runner.forward(batch)
        forward_ns = time.monotonic_ns() - start_ns
        drawn = self._draw(shares, logits)
        judged = [
            [_Judged(share, *next(drawn)) for share in session] if session[0].drafted is not None else []
            for session in chosen
        ]
        rows = self._runner.padded_rows(batch)
        end_ns = time.monotonic_ns()
        self._made = _Pass(
            chosen, judged, waits_ns, start_ns, end_ns, gap_ns, forward_ns, self._prefill_ns, rows, beside_drafter
        )
        self._prefill_ns = 0

    def _commit_pass(self, made: _Pass) -> None:
        """Judge and commit what a pass drew, unless the session has ended since."""
        judging_since_ns = time.monotonic_ns()
        rows = sum(len(share.rows.token_ids) for session in made.chosen for share in session)
        for shares, judged, wait_ns in zip(made.chosen, made.judged, made.waits_ns, strict=True):
            trunk = shares[0]
            session = trunk.session
            if self._sessions.get(session.slot) is not session:
                continue
            self._yield_turn(session)
            if not judged:
                session.fed_tokens += len(trunk.committed)
                continue
            session.learn(judged[0].drafted, judged[0].token_ids)
            # Of branches that reach equally far the trunk comes first: its cells lie where they belong.
            best = max(judged, key=lambda each: each.accepted_tokens)
            self._keep(best.share)
            now_ns = time.monotonic_ns()
            own_rows = sum(len(share.rows.token_ids) for share in shares)
            plain_rows = rows - own_rows + len(trunk.committed)
            commit = session.commit(
                best.drafted,
                best.token_ids,
                best.logprobs,
                PassTimings(
                    wait_ns=wait_ns,
                    gap_ns=made.gap_ns,
                    forward_ns=made.forward_ns,
                    sampling_ns=now_ns - made.start_ns - made.forward_ns,
                ),
                now_ns,
                made.prefill_ns + session.rule.pace.alone_times.expected_ns(plain_rows),
            )
            if commit.finish_reason:
                self.close(session)
            session.emit(commit)
        self._last_pass_end_ns = time.monotonic_ns()
        times = self._pass_times if made.beside_drafter else self._alone_times
        # Without the messages that were handled in between.
        times.add(made.padded_rows, made.end_ns - made.start_ns + self._last_pass_end_ns - judging_since_ns)

    def _keep(self, share: Share) -> None:
        """Move the cells of the share that was chosen to where its positions are."""
        if share.first_cell is not None:
            self._runner.keep_branch(
                share.session.slot, share.first_cell, share.session.fed_tokens, len(share.rows.token_ids)
            )

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
            own = token_ids[rows]
            if share.session.opening.tests_ratios:
                own = _judge_by_ratios(share, shaped[rows], own[-1])
            logprobs: list[float] = []
            if share.session.opening.logprobs:
                chosen = torch.tensor(own, device=shaped.device).unsqueeze(-1)
                logprobs = torch.log_softmax(shaped[rows][: len(own)], dim=-1).gather(-1, chosen).squeeze(-1).tolist()
            yield own, logprobs
            start = rows.stop

    def _yield_turn(self, session: VerifierSession) -> None:
        """Move a session that was served behind the others, so that none starves."""
        self._sessions[session.slot] = self._sessions.pop(session.slot)


def _judge_by_ratios(share: Share, shaped: Tensor, free_token_id: int) -> list[int]:
    """What a share under the ratio test commits; see `judge_window`."""
    session = share.session
    nodes = session.tree.best_path()[: len(share.drafted or ())]
    return judge_window(
        shaped.cpu(),
        [node.token_id for node in nodes],
        [node.distribution for node in nodes if node.distribution],
        free_token_id,
        session.opening.seed,
        len(session.ledger),
    )
