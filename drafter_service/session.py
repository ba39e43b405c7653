"""One session as the drafter sees it."""

from collections.abc import Callable
from itertools import takewhile

from sybil_engine.draft_tree import DraftTree, join_blocks
from sybil_engine.ledger import Ledger
from sybil_engine.noise import NoiseTape
from sybil_engine.serving.opening import check_token_ids
from sybil_engine.types import Block, Commit, SessionOpen, Speculation


class DrafterSession:
    """Ledger, draft tree, slot, and what its cells hold.

    Attributes:
        slot: its rows in the KV cache.
        fed: the tokens whose cells are filled, in order. Rollback is what `forget_disagreeing` does to them.
        max_position: no token is drafted at or behind this position.
        draft_budget: how far ahead of the ledger to draft.
    """

    def __init__(
        self,
        opening: SessionOpen,
        slot: int,
        max_position: int,
        vocabulary_size: int,
        noise: NoiseTape,
        emit: Callable[[Block | Exception], None],
    ) -> None:
        self.opening = opening
        self.slot = slot
        self.max_position = max_position
        self._vocabulary_size = vocabulary_size
        self.noise = noise
        self.emit = emit
        self.ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self.tree = DraftTree(self.ledger)
        self.fed: list[int] = []
        self.draft_budget = opening.draft_budget
        self._held_back: list[Block] = []

    @property
    def path(self) -> list[int]:
        """The ledger's tokens and the trunk's: what the next token is drafted after."""
        return self.ledger[:] + [node.token_id for node in self.tree.best_path()]

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens to be fed in chunks: the last one belongs to the pass that draws the first draft."""
        return self.ledger.prompt_tokens - 1 - len(self.fed)

    @property
    def wants_draft(self) -> bool:
        drafted_tokens = len(self.tree.best_path())
        budget_tokens = min(self.draft_budget, self.tree.capacity_tokens)
        # The session's last token is the target's own: one that is drafted for its place is never judged.
        return drafted_tokens < budget_tokens and len(self.ledger) + drafted_tokens < self.max_position - 1

    def advance(self, commit: Commit) -> None:
        """Move along the log.

        Raises:
            InvalidRequest: a token that the draft model does not know.
            SessionError: the commit leaves a gap or contradicts the ledger.
        """
        # Fed to the model, it would break the pass of every session.
        check_token_ids(commit.token_ids, self._vocabulary_size)
        self.ledger.append(commit)
        self.tree.advance()
        self.draft_budget = commit.draft_budget

    def forget_disagreeing(self) -> list[int]:
        """Cut `fed` to where it agrees with the path, leaving at least the path's last token to be fed: its pass is
        what draws the next one.

        Returns:
            The path's tokens that have no cell.
        """
        path = self.path
        agreeing = self.fed[: len(path) - 1]
        if agreeing != path[: len(agreeing)]:
            agreeing = [fed for fed, _ in takewhile(lambda pair: pair[0] == pair[1], zip(agreeing, path, strict=False))]
        self.fed = agreeing
        return path[len(agreeing) :]

    def draft(self, token_id: int, draft_ns: int) -> None:
        """Extend the trunk by one token, and push what is due."""
        trunk = self.tree.best_path()
        block = Block(
            position=len(self.ledger) + len(trunk),
            prefix_fingerprint=trunk[-1].fingerprint if trunk else self.ledger.fingerprint(len(self.ledger)),
            token_ids=(token_id,),
            draft_ns=draft_ns,
        )
        self.tree.graft(block)
        self._held_back.append(block)
        # In lockstep the verifier waits for the whole window: one message is enough.
        if self.opening.speculation is not Speculation.LOCKSTEP or not self.wants_draft:
            for joined in join_blocks(self._held_back):
                self.emit(joined)
            self._held_back.clear()
