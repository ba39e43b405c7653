"""One session as the verifier sees it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from sybil_engine.core.draft_tree import DraftTree, Graft
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.types import Block, BlockOrigin, Commit, FinishReason, PassTimings, SessionOpen, TokenOrigin
from sybil_engine.sampling.acceptance import count_accepted
from verifier_service.launch import NO_WAIT, LaunchRule

# Chances come in single precision: the drafter must not stop where more is waited for.
_ROUNDING = 1.001
# Runners-up included.
_MOST_DRAFTED_TOKENS = 1024


class VerifierSession:
    """Ledger, draft tree, slot, and when the next pass is due.

    Attributes:
        slot: its rows in the KV cache.
        fed_tokens: tokens whose cells are filled; the last committed token's never is.
        max_position: the session ends when this many tokens are committed.
        emit: takes the commits.
    """

    def __init__(
        self,
        opening: SessionOpen,
        slot: int,
        max_position: int,
        vocabulary_size: int,
        rule: LaunchRule,
        noise: NoiseTape,
        emit: Callable[[Commit | Exception], None],
        now_ns: int,
    ) -> None:
        self.opening = opening
        self.slot = slot
        self.max_position = max_position
        self._vocabulary_size = vocabulary_size
        self.rule = rule
        self.noise = noise
        self.emit = emit
        self.ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self.tree = DraftTree(self.ledger, _MOST_DRAFTED_TOKENS)
        self.fed_tokens = 0
        self.finished = False
        self._opened_ns = now_ns
        self._waits_since_ns = now_ns
        self._wait = NO_WAIT
        self._drafter_silent = False
        self._saw_block_since_commit = False
        self._told_budget = opening.draft_budget

    @property
    def room_tokens(self) -> int:
        """Drafted tokens that the next pass may judge before the session's last token, which is the target's own."""
        return self.max_position - len(self.ledger) - 1

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens to be fed before decode passes: the last one belongs to the first decode pass."""
        return self.ledger.prompt_tokens - 1 - self.fed_tokens

    def offer(self, block: Block, arrived_ns: int) -> Graft:
        """Hang a block into the draft tree.

        Args:
            arrived_ns: when, by `time.monotonic_ns`.

        Raises:
            InvalidRequest: the block holds no tokens.
        """
        if not block.token_ids:
            raise InvalidRequest("a block without tokens; send at least one")
        if max(block.token_ids) >= self._vocabulary_size:
            # A drafter's output layer may be padded further than ours. No commit will ever agree with such a token.
            return Graft.UNKNOWN
        if self.opening.tests_ratios:
            if len(block.distributions) != len(block.token_ids):
                # Nobody can say how likely the draft was, so nobody can judge it.
                return Graft.UNKNOWN
            # Which positions are judged must not depend on what was drafted for them.
            block = replace(block, chances=())
        self._drafter_silent = False
        tree_was_empty = len(self.tree) == 0
        graft = self.tree.graft(block)
        if graft is Graft.ADDED and block.origin is BlockOrigin.TRUNK:
            # While the prompt is fed nobody waits, and nothing is learned of the round trip; nor from a block that was
            # under way before the commit.
            first_after_miss = tree_was_empty and not self._saw_block_since_commit and self.prefill_tokens <= 0
            awaited = first_after_miss and block.known_tokens in (0, len(self.ledger))
            since_miss_ns = arrived_ns - self._waits_since_ns if awaited else None
            # Nobody drafted for longer than there has been a session.
            draft_ns = min(block.draft_ns, arrived_ns - self._opened_ns)
            self.rule.pace.saw_block(len(block.token_ids), draft_ns, since_miss_ns)
            self._saw_block_since_commit = True
        return graft

    def due_in_ns(self, now_ns: int) -> int:
        """Time until the next pass is due; 0 or less when it is."""
        # A pass draws one token beyond the drafted ones: those that the session has no room for are not waited for, nor
        # those that the drafter was not told to draft.
        waited_for = min(self._wait.tokens, self.room_tokens, self._told_budget)
        replays = self.fed_tokens < len(self.ledger) - 1
        if replays or self._drafter_silent or self._has_enough(waited_for):
            return 0
        return self._waits_since_ns + self._wait.patience_ns - now_ns

    def _has_enough(self, waited_for: int) -> bool:
        """Whether what is drafted is what the next pass waits for, or the drafter goes no further."""
        path = self.tree.best_path()
        if len(path) >= waited_for:
            return True
        if not path or not self._wait.least_chance:
            return False
        return math.prod(self.rule.pace.chance(node) for node in path) < self._wait.least_chance * _ROUNDING

    def start_waiting(self, now_ns: int) -> None:
        """Begin the wait for the next pass: its prefill, or its last commit, is done."""
        self._waits_since_ns = now_ns
        self._saw_block_since_commit = False
        self._wait = self.rule.wait(len(self.tree.best_path()))

    def launch(self, now_ns: int) -> int:
        """Note that a pass starts.

        Returns:
            How long it was waited for, in nanoseconds.
        """
        if self._wait.tokens and not self._saw_block_since_commit and not len(self.tree):
            self._drafter_silent = True
        return now_ns - self._waits_since_ns

    def learn(self, trunk: Sequence[int], drawn: Sequence[int]) -> None:
        """Learn from what a pass drew where the trunk's tokens were judged, before it is committed."""
        accepted_tokens = count_accepted(trunk, drawn)
        node = self.tree.root
        # Also behind the window: what was not worth a row was guessed all the same.
        for token_id in drawn[: accepted_tokens + 1]:
            self.rule.pace.saw_draw(node, token_id)
            if token_id not in node.children:
                break
            node = node.children[token_id]
        self.rule.pace.saw_pass(min(accepted_tokens + 1, len(trunk)), accepted_tokens)

    def commit(
        self,
        drafted: Sequence[int],
        drawn: Sequence[int],
        logprobs: Sequence[float],
        timings: PassTimings,
        now_ns: int,
        plain_pass_ns: float,
    ) -> Commit:
        """Judge the pass's window and append what the target decided.

        Args:
            drafted: [window], the tokens that were judged.
            drawn: [window + 1], the target's own token at each of their positions and the one after.
            logprobs: [window + 1], or empty.
            plain_pass_ns: see `LaunchRule.committed`.

        Returns:
            The commit, cut at a stop token or at the session's end.
        """
        accepted_tokens = count_accepted(drafted, drawn)
        token_ids, finish_reason = self._cut(drawn[: accepted_tokens + 1])
        accepted_tokens = min(accepted_tokens, len(token_ids))
        ended_inside_window = finish_reason is not None and len(token_ids) <= accepted_tokens
        # Behind a session's end nothing is tested.
        window_tokens = accepted_tokens if ended_inside_window else len(drafted)
        speculation = self.rule.speculation
        self.rule.committed(len(token_ids), now_ns, plain_pass_ns)
        commit = Commit(
            position=len(self.ledger),
            prefix_fingerprint=self.ledger.fingerprint(len(self.ledger)),
            token_ids=token_ids,
            origins=tuple(
                TokenOrigin.DRAFTED if index < accepted_tokens else TokenOrigin.TARGET
                for index in range(len(token_ids))
            ),
            logprobs=tuple(logprobs[: len(token_ids)]),
            draft_budget=0 if finish_reason else self.rule.draft_budget(),
            window_tokens=window_tokens,
            accepted_tokens=accepted_tokens,
            timings=timings,
            finish_reason=finish_reason,
            draft_rows=self.rule.draft_rows,
            speculation=speculation,
            reason=self.rule.reason if finish_reason else "",
        )
        self.ledger.append(commit)
        self.tree.advance()
        # The cells of accepted tokens are filled; the target's own token has none yet.
        self.fed_tokens = len(self.ledger) - 1
        self._told_budget = commit.draft_budget
        self.start_waiting(now_ns)
        return replace(commit, push_tokens=max(1, self._wait.tokens), least_chance=self._wait.least_chance)

    def _cut(self, token_ids: Sequence[int]) -> tuple[tuple[int, ...], FinishReason | None]:
        room = self.max_position - len(self.ledger)
        for index, token_id in enumerate(token_ids[:room]):
            if token_id in self.opening.stop_token_ids:
                return tuple(token_ids[: index + 1]), FinishReason.STOP
        return tuple(token_ids[:room]), FinishReason.LENGTH if len(token_ids) >= room else None
