"""One session as the drafter sees it."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from drafter_service.calibration import Calibration
from drafter_service.growth import Growth
from sybil_engine.core.draft_tree import join_blocks
from sybil_engine.core.errors import ContextExceeded
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.types import Block, Commit, SessionOpen
from sybil_engine.serving.opening import check_token_ids


class DrafterSession:
    """Ledger, growing draft tree, slot, and how far to draft.

    Attributes:
        slot: its rows in the KV cache.
        growth: the draft tree, and what its cells hold.
        draft_rows: by how many rows a pass may grow the tree; 1 grows the trunk alone.
        max_position: the session ends when this many tokens are committed; none is drafted at or behind it.
        draft_budget: how far ahead of the ledger to draft.
        emit: takes the blocks of each push.
    """

    def __init__(
        self,
        opening: SessionOpen,
        slot: int,
        cells: int,
        context_tokens: int,
        max_position: int,
        vocabulary_size: int,
        noise: NoiseTape,
        calibration: Calibration,
        emit: Callable[[tuple[Block, ...] | Exception], None],
    ) -> None:
        self.opening = opening
        self.slot = slot
        self.max_position = max_position
        self._vocabulary_size = vocabulary_size
        self.noise = noise
        self.emit = emit
        self.draft_rows = opening.draft_rows
        self.ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self.growth = Growth(self.ledger, cells, context_tokens, calibration)
        self.draft_budget = opening.draft_budget
        self._push_tokens = opening.push_tokens
        self.growth.aim(self._depth, hedged=self.hedged)
        self._held_back: list[Block] = []
        self._outgoing: list[Block] = []

    @property
    def hedged(self) -> bool:
        """Whether runner-up tokens are followed, too."""
        # The ratio test's exactness rests on one draft a position.
        return self.draft_rows > 1 and not self.opening.tests_ratios

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens to be fed in chunks: the last one belongs to the pass that draws the first draft."""
        return self.ledger.prompt_tokens - 1 - self.growth.fed_tokens

    @property
    def unfed_tokens(self) -> int:
        """The ledger's tokens that are fed before anything is drafted behind them."""
        return len(self.ledger) - self.growth.fed_tokens

    @property
    def wants_draft(self) -> bool:
        return self._depth > 0 and (self.unfed_tokens > 0 or self.growth.sprouts)

    @property
    def _depth(self) -> int:
        # The session's last token is the target's own: one that is drafted for its place is never judged.
        return min(self.draft_budget, self.max_position - 1 - len(self.ledger))

    def advance(self, commit: Commit) -> None:
        """Move along the log.

        Raises:
            InvalidRequest: a token that the draft model does not know.
            ContextExceeded: tokens beyond the session's end: reopening it would not help.
            SessionError: the commit leaves a gap or contradicts the ledger.
        """
        end = commit.position + len(commit.token_ids)
        if end > self.max_position:
            raise ContextExceeded(
                f"the commit ends at position {end}, but the session at {self.max_position}, where max_position or the "
                "draft model's context ends; go on without this drafter"
            )
        # Fed to the model, it would break the pass of every session.
        check_token_ids(commit.token_ids, self._vocabulary_size)
        self.ledger.append(commit)
        self.growth.advance()
        self.draft_budget = commit.draft_budget
        self.draft_rows = commit.draft_rows
        self._push_tokens = commit.push_tokens
        self.growth.aim(self._depth, hedged=self.hedged, least_chance=commit.least_chance)
        self._release()

    def drafted(self, blocks: Iterable[Block], draft_ns: int) -> None:
        """Take what a pass drafted."""
        known_tokens = len(self.ledger)
        self._held_back += (replace(block, draft_ns=draft_ns, known_tokens=known_tokens) for block in blocks)
        self._release()

    def _release(self) -> None:
        """Let what was drafted be pushed, once there is as much of it as the verifier waits for."""
        if len(self.growth.tree.best_path()) >= self._push_tokens or not self.wants_draft:
            self._outgoing += join_blocks(self._held_back)
            self._held_back.clear()

    def push(self) -> None:
        """Push what may be pushed, at once: each message on its own costs three processes time."""
        if self._outgoing:
            self.emit(tuple(self._outgoing))
            self._outgoing.clear()
