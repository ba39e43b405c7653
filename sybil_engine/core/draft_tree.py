"""The trie of drafted tokens, rooted at the last committed one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from sybil_engine.core.ledger import Ledger, extend_fingerprint
from sybil_engine.core.types import MODEL_DRAFTER, Block, BlockOrigin, Distribution


class Graft(Enum):
    """What adding a block to the tree did."""

    ADDED = "added"
    REPEATED = "repeated"  # all its tokens are in the tree or committed already
    STALE = "stale"  # it extends tokens that the ledger contradicts
    UNKNOWN_PREFIX = "unknown prefix"  # it extends tokens that are not in the ledger or the tree
    OUTSIDE_VOCABULARY = "outside vocabulary"  # it holds a token that the target does not know
    UNJUDGEABLE = "unjudgeable"  # it lacks the distributions that the judge wants
    FULL = "full"  # the tree holds as many tokens as it may


@dataclass(slots=True, eq=False)
class DraftNode:
    """One drafted token. `fingerprint` is that of all tokens up to and including it.

    Attributes:
        chance: P(target draws this token | it drew the earlier ones), the highest that a drafter reported; None: not
            known.
        drafter: who guessed it first.
        sent: whether it came in a block. Others were proposed in this process: nobody waits for them.
    """

    position: int
    token_id: int
    fingerprint: int
    distribution: Distribution | None = None
    chance: float | None = None
    drafter: str = MODEL_DRAFTER
    sent: bool = True
    parent: "DraftNode | None" = None
    children: dict[int, "DraftNode"] = field(default_factory=dict)
    trunk_child: "DraftNode | None" = None

    def best_child(self) -> "DraftNode | None":
        """The trunk's next token, else the oldest hedge, else None. Proposed tokens are neither."""
        return self.trunk_child or next((child for child in self.children.values() if child.sent), None)

    def walk(self) -> Iterator["DraftNode"]:
        nodes = [self]
        while nodes:
            yield (node := nodes.pop())
            nodes += node.children.values()


class DraftTree:
    """The tokens drafted beyond a ledger. The ledger is read, never written.

    The root is the last committed token. When it advances, branches that disagree with the ledger are dropped; those
    that agree stay.
    """

    def __init__(self, ledger: Ledger, capacity_tokens: int = 512) -> None:
        self._ledger = ledger
        self.capacity_tokens = capacity_tokens
        self.root: DraftNode
        self._by_fingerprint: dict[int, DraftNode]
        self._trunk: list[DraftNode] | None
        self.drop()

    def __len__(self) -> int:
        """Drafted tokens in the tree."""
        return len(self._by_fingerprint) - 1

    def __contains__(self, fingerprint: int) -> bool:
        """Whether this is the fingerprint of the root or of a node of the tree."""
        return fingerprint in self._by_fingerprint

    @property
    def position(self) -> int:
        """Position of the next token after the root."""
        return self.root.position + 1

    def graft(self, block: Block) -> Graft:
        """Add a block's tokens after the prefix that it extends.

        If the block is late, and its first tokens are committed by now, the others are added.
        """
        late_tokens = max(0, self.position - block.position)
        if late_tokens:
            committed = self._ledger[block.position : self.position][: len(block.token_ids)]
            if (
                self._ledger.fingerprint(block.position) != block.prefix_fingerprint
                or list(block.token_ids[:late_tokens]) != committed
            ):
                return Graft.STALE
            node: DraftNode | None = self.root
        else:
            node = self._by_fingerprint.get(block.prefix_fingerprint)
        if node is None or node.position + 1 != max(block.position, self.position):
            return Graft.UNKNOWN_PREFIX
        path = [node]
        outcome, added = Graft.REPEATED, False
        for index, token_id in enumerate(block.token_ids[late_tokens:], start=late_tokens):
            child = path[-1].children.get(token_id)
            if child is None or not child.sent:
                if child is None and len(self) >= self.capacity_tokens:
                    outcome = Graft.FULL
                    break
                chance = block.chances[index] if block.chances else None
                child = self.add(path[-1], token_id, chance, drafter=block.drafter)
                child.distribution = block.distributions[index] if block.distributions else None
                outcome, added = Graft.ADDED, True
            path.append(child)
        if block.origin is BlockOrigin.TRUNK and added:
            for parent, child in pairwise(path):
                parent.trunk_child = child
        return outcome

    def add(
        self,
        parent: DraftNode,
        token_id: int,
        chance: float | None,
        *,
        on_trunk: bool = False,
        drafter: str = MODEL_DRAFTER,
        sent: bool = True,
    ) -> DraftNode:
        """Add a child to `parent`. If it is there already, it keeps its drafter, and the higher chance.

        Args:
            sent: whether it came in a block.
        """
        child = parent.children.get(token_id)
        if child is None:
            fingerprint = extend_fingerprint(parent.fingerprint, token_id)
            child = DraftNode(
                parent.position + 1, token_id, fingerprint, chance=chance, drafter=drafter, sent=sent, parent=parent
            )
            parent.children[token_id] = child
            self._by_fingerprint[fingerprint] = child
        else:
            child.sent = child.sent or sent
            if chance is not None:
                child.chance = chance if child.chance is None else max(chance, child.chance)
        if on_trunk:
            parent.trunk_child = child
        if sent and self._trunk is not None:
            if parent is (self._trunk[-1] if self._trunk else self.root) and not child.children:
                self._trunk.append(child)
            else:
                self._trunk = None
        return child

    def advance(self) -> int:
        """Move the root along the ledger's new tokens, and drop the branches that disagree.

        Returns:
            How many of the new tokens had been drafted.
        """
        drafted_tokens = 0
        for position in range(self.position, len(self._ledger)):
            child = self.root.children.get(self._ledger[position])
            if child is None:
                self.drop()
                return drafted_tokens
            drafted_tokens += 1
            self.root = child
        self._trunk = None
        if drafted_tokens:
            self.root.parent = None
            self._by_fingerprint = {node.fingerprint: node for node in self.root.walk()}
        return drafted_tokens

    @property
    def trunk(self) -> Sequence[DraftNode]:
        """The best path after the root; see `best_path`. Computed once for each state of the tree."""
        if self._trunk is None:
            self._trunk = self.best_path(self.root)
        return self._trunk

    def best_path(self, start: DraftNode) -> list[DraftNode]:
        """The path after `start` that follows the trunk, and the oldest hedge where there is no trunk."""
        path = []
        node = start.best_child()
        while node is not None:
            path.append(node)
            node = node.best_child()
        return path

    def drop(self) -> None:
        """Drop all drafted tokens; the root becomes the ledger's last token."""
        last = len(self._ledger) - 1
        self.root = DraftNode(last, self._ledger[last], self._ledger.fingerprint(last + 1))
        self._by_fingerprint = {self.root.fingerprint: self.root}
        self._trunk = None
