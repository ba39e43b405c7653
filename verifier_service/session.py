"""One session as the verifier sees it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sybil_engine.core.draft_tree import DraftTree, Graft
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.session import Advance, Commit, SessionOpen, count_tested
from sybil_engine.core.types import (
    MOST_MESSAGE_TOKENS,
    Block,
    BlockOrigin,
    CommittedToken,
    DrafterCount,
    FinishReason,
    PassTimings,
    Speculation,
    TokenOrigin,
)
from sybil_engine.models.residency import Resident
from sybil_engine.proposers.registry import Registry
from sybil_engine.sampling.judges import judge_for
from sybil_engine.sampling.judges.judge import Verdict
from verifier_service.policy.pace import Pace
from verifier_service.policy.rows import Path
from verifier_service.policy.rule import PassOutcome, Rule, State, patience_ns
from verifier_service.tally import Tally

# Chances come in single precision. The verifier must not wait for more where the drafter has stopped.
_ROUNDING = 1.001


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a session may use.

    Attributes:
        max_position: the session ends when this many tokens are committed.
        vocabulary_size: token ids are smaller.
        window_tokens: the most drafted tokens that one pass may judge.
    """

    max_position: int
    vocabulary_size: int
    window_tokens: int


class VerifierSession(Resident):
    """Ledger, draft tree, and when the next pass is due.

    Args:
        tally: counts the blocks that come.
        registry: offers the proposers that guess in this process.

    Attributes:
        ensemble: its proposers.
        plan: what drafting does now, and what the next pass waits for.
        fed_tokens: committed tokens whose cells are filled; never the last one's.
        emit: takes the commits.
    """

    fed_tokens = 0

    def __init__(
        self,
        opening: SessionOpen,
        slot: int,
        limits: SessionLimits,
        rule: Rule,
        noise: NoiseTape,
        emit: Callable[[Commit | Exception], None],
        now_ns: int,
        number: int,
        *,
        tally: Tally,
        registry: Registry,
        has_room: Callable[[], bool],
    ) -> None:
        super().__init__(opening, slot, number, has_room)
        self._limits = limits
        self.rule = rule
        self.noise = noise
        self.emit = emit
        self._tally = tally
        self.judge = judge_for(opening)
        self.tree = DraftTree(self.ledger, MOST_MESSAGE_TOKENS)
        self.ensemble = registry.ensemble(
            opening, self._proposers_asked, self.ledger, self.tree, noise, limits.vocabulary_size
        )
        # For each token of the best proposed path, the chance of being reached.
        self._proposed: Sequence[float] = ()
        self._tree_grew = False
        self.plan = NO_DRAFTING
        # The budget that the drafter has been told.
        self._told_budget = opening.plan.budget
        self._opened_ns = self._waits_since_ns = now_ns
        self._patience_ns = 0
        self._drafter_silent = False
        self._saw_block_since_commit = False
        if not self.prefill_tokens:
            self.start_waiting(now_ns)

    def feed(self, tokens: int) -> None:
        """See `Resident.feed`."""
        self.fed_tokens += tokens

    def leave(self) -> None:
        """See `Resident.leave`."""
        self.fed_tokens = 0

    @property
    def pace(self) -> Pace:
        return self.rule.pace

    @property
    def max_position(self) -> int:
        return self._limits.max_position

    @property
    def ready(self) -> bool:
        """Whether its prompt is in the cache, and it doesn't pause."""
        return self.resident and self.prefill_tokens <= 0 and self.has_room()

    @property
    def begins(self) -> bool:
        """Whether it has committed nothing since it was opened."""
        return len(self.ledger) == len(self.opening.token_ids)

    @property
    def window_tokens(self) -> int:
        """The most drafted tokens of one path that the next pass may judge.

        A pass draws one token beyond the drafted ones, and the session's last token is the target's own.
        """
        most_tokens = min(self._limits.window_tokens, self._room_tokens)
        # A plan's budget is for drafter services; what is proposed here is cut by its chances.
        return most_tokens if self.mixes else min(self.plan.budget, most_tokens)

    @property
    def mixes(self) -> bool:
        """Whether guesses of several kinds compete by their chances."""
        return bool(self.ensemble)

    @property
    def hedges(self) -> bool:
        """Whether branches may be judged beside the trunk."""
        return (self.plan.rows > 1 or self.mixes) and self.judge.allows_hedges

    @property
    def _proposers_asked(self) -> Sequence[str]:
        # Under the ratio test, drafted tokens must come from the distributions that they are judged by.
        off = self.opening.plan.speculation is Speculation.OFF
        return () if off or self.judge.wants_distributions else self.opening.drafters

    @property
    def _room_tokens(self) -> int:
        return self.max_position - len(self.ledger) - 1

    def offer(self, block: Block, arrived_ns: int) -> Graft:
        """Add a block to the draft tree.

        Args:
            arrived_ns: when, by `time.monotonic_ns`.

        Raises:
            InvalidRequest: the block holds no tokens.
        """
        graft = self._graft(block, arrived_ns)
        self._tally.blocks[graft] += 1
        return graft

    def _graft(self, block: Block, arrived_ns: int) -> Graft:
        if not block.token_ids:
            raise InvalidRequest("a block without tokens; send at least one")
        if max(block.token_ids) >= self._limits.vocabulary_size:
            # A drafter's output layer may have more padding than the target's.
            return Graft.OUTSIDE_VOCABULARY
        if self.judge.wants_distributions:
            if len(block.distributions) != len(block.token_ids):
                return Graft.UNJUDGEABLE
            # The drafted tokens must not influence which positions are judged.
            block = replace(block, chances=())
        self._drafter_silent = False
        tree_was_empty = not len(self.tree)
        graft = self.tree.graft(block)
        self._tree_grew = self._tree_grew or graft is Graft.ADDED
        if graft is Graft.ADDED and block.origin is BlockOrigin.TRUNK:
            self._learn_from(block, arrived_ns, tree_was_empty)
        return graft

    def _learn_from(self, block: Block, arrived_ns: int, tree_was_empty: bool) -> None:
        # A round trip is measured only if the block is an answer to the last commit: not while the prompt is still
        # being fed, and not from a block that was sent before the commit.
        first_after_miss = tree_was_empty and not self._saw_block_since_commit and self.prefill_tokens <= 0
        awaited = first_after_miss and block.known_tokens in (0, len(self.ledger))
        since_miss_ns = arrived_ns - self._waits_since_ns if awaited else None
        # A drafter may report anything, but it cannot have drafted for longer than the session exists.
        draft_ns = min(block.draft_ns, arrived_ns - self._opened_ns)
        self.pace.saw_block(len(block.token_ids), draft_ns, since_miss_ns)
        if since_miss_ns is not None:
            self._tally.round_trips.observe(max(0, since_miss_ns - draft_ns) / 1e9)
        self._saw_block_since_commit = True

    def due_in_ns(self, now_ns: int) -> int:
        """Time until the next pass is due; 0 or less when it is."""
        replays = self.unfed_tokens > 1
        if replays or self._drafter_silent or self._has_enough():
            return 0
        return self._waits_since_ns + self._patience_ns - now_ns

    def _has_enough(self) -> bool:
        """Whether the tokens that the next pass waits for are here, or the drafter will send no more."""
        path = self.tree.trunk
        # Don't wait for tokens beyond the session's end, nor for tokens that the drafter was not told to draft.
        if len(path) >= min(self.plan.hold_until, self._room_tokens, self._told_budget):
            return True
        if not path or not self.plan.least_chance:
            return False
        return math.prod(self.pace.chance(node) for node in path) < self.plan.least_chance * _ROUNDING

    def start_waiting(self, now_ns: int) -> None:
        """Plan the next pass and begin to wait for it, after the prompt is fed or a pass is committed."""
        self._waits_since_ns = now_ns
        self._saw_block_since_commit = False
        ready_tokens = len(self.tree.trunk)
        self._tree_grew = True
        self.propose()
        self._proposed = self.ensemble.survivals(min(self._limits.window_tokens, self._room_tokens))
        self.plan = self.rule.next(State(ready_tokens, self._proposed))
        self._patience_ns = patience_ns(self.plan, self.pace, ready_tokens)

    def propose(self) -> None:
        """Ask the proposers what may follow, unless the draft tree has not grown since they were asked."""
        if self._tree_grew and self.mixes:
            self.ensemble.propose(min(self._limits.window_tokens, self._room_tokens), self.pace.least_worthwhile)
        self._tree_grew = False

    def launch(self, now_ns: int) -> int:
        """Note that a pass starts.

        Returns:
            How long it was waited for, in nanoseconds.
        """
        if self.plan.hold_until and not self._saw_block_since_commit and not len(self.tree):
            self._drafter_silent = True
        return now_ns - self._waits_since_ns

    def learn(self, trunk: Path, verdict: Verdict) -> None:
        """Learn from the verdict on the trunk, before it is committed."""
        node = self.tree.root
        # Includes drafted tokens beyond the window: they got no row, but their chances were predictions all the same.
        for token_id in verdict.token_ids:
            self.pace.saw_draw(node, token_id)
            if token_id not in node.children:
                break
            node = node.children[token_id]
        if not self.mixes:
            self.pace.saw_pass(count_tested(len(trunk), verdict.accepted), verdict.accepted)
            return
        # The judged path may be another drafter's. The draft model's guesses were tested up to the first wrong one.
        node = self.tree.root
        for token_id in verdict.token_ids:
            if not (guess := node.best_child()):
                break
            right = guess.token_id == token_id
            self.pace.saw_pass(1, int(right))
            if not right:
                break
            node = guess

    def commit(
        self,
        path: Path,
        verdict: Verdict,
        logprobs: Sequence[float],
        timings: PassTimings,
        now_ns: int,
        plain_pass_ns: float,
    ) -> Commit:
        """Append the verdict to the ledger, and plan what comes next.

        Args:
            path: the drafted tokens that were judged.
            logprobs: one for each token of the verdict, or none.
            plain_pass_ns: see `PassOutcome`.

        Returns:
            The commit, cut at a stop token or at the session's end.
        """
        token_ids, finish_reason = self._cut(verdict.token_ids)
        accepted = min(verdict.accepted, len(token_ids))
        plain_rows, plain_tokens = self.pace.worthwhile(self._proposed)
        position = len(self.ledger)
        decided = Advance(position, self.ledger.fingerprint(position), token_ids)
        self.ledger.append(decided)
        self.tree.advance()
        self.ensemble.follow()
        # The cells of accepted tokens are filled; the target's own token has none yet.
        self.fed_tokens = len(self.ledger) - 1
        sent = [node.sent for node in path]
        self.rule.learn(
            PassOutcome(
                len(token_ids),
                now_ns,
                plain_pass_ns + plain_rows * self.pace.alone_times.row_ns,
                sum(sent),
                sum(sent[:accepted]),
                plain_tokens,
            )
        )
        self.ensemble.saw_commit(path[:accepted], plain_pass_ns / len(token_ids))
        if not finish_reason:
            self.start_waiting(now_ns)
            self._told_budget = self.plan.budget
        # Drafted tokens beyond the session's end were not tested.
        ended_inside_window = finish_reason is not None and len(token_ids) <= accepted
        return Commit(
            position=position,
            prefix_fingerprint=decided.prefix_fingerprint,
            tokens=_committed(token_ids, path[:accepted], logprobs),
            judged=accepted if ended_inside_window else len(path),
            accepted=accepted,
            plan=DraftPlan(self.plan.speculation) if finish_reason else self.plan,
            timings=timings,
            finish_reason=finish_reason,
            reason=self.rule.reason if finish_reason else "",
            cached_prompt_tokens=self.reused_tokens,
            drafters=_counts(path, accepted),
        )

    def _cut(self, token_ids: tuple[int, ...]) -> tuple[tuple[int, ...], FinishReason | None]:
        room = self.max_position - len(self.ledger)
        for index, token_id in enumerate(token_ids[:room]):
            if token_id in self.opening.stop_token_ids:
                return token_ids[: index + 1], FinishReason.STOP
        return token_ids[:room], FinishReason.LENGTH if len(token_ids) >= room else None


def _committed(token_ids: Sequence[int], accepted: Path, logprobs: Sequence[float]) -> tuple[CommittedToken, ...]:
    return tuple(
        CommittedToken(
            token_id,
            TokenOrigin.DRAFTED if index < len(accepted) else TokenOrigin.TARGET,
            logprobs[index] if logprobs else None,
            accepted[index].drafter if index < len(accepted) else "",
        )
        for index, token_id in enumerate(token_ids)
    )


def _counts(path: Path, accepted: int) -> tuple[DrafterCount, ...]:
    """How each drafter's tokens of a judged path fared."""
    parts = (path, path[: accepted + 1], path[:accepted])
    judged, tested, right = (Counter(node.drafter for node in part) for part in parts)
    return tuple(DrafterCount(drafter, count, tested[drafter], right[drafter]) for drafter, count in judged.items())


def due_sessions(sessions: Iterable[VerifierSession], now_ns: int) -> list[VerifierSession]:
    """The sessions that take part in a pass that starts now, in their order.

    A pass that runs anyway also draws the first tokens of sessions that still wait for drafts.
    """
    ready = [session for session in sessions if session.ready]
    due = [session for session in ready if session.due_in_ns(now_ns) <= 0]
    if due and len(due) < len(ready):
        due = [session for session in ready if session.begins or session.due_in_ns(now_ns) <= 0]
    return due
