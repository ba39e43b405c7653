"""The trie of drafted tokens, rooted at the last committed one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import reduce
from itertools import pairwise

from sybil_engine.core.ledger import Ledger, extend_fingerprint
from sybil_engine.core.types import Block, BlockOrigin, Distribution


class Graft(Enum):
    """What became of a block."""

    ADDED = "added"
    REPEATED = "repeated"  # every token hangs in the tree, or is committed, already
    STALE = "stale"  # it extends tokens that the ledger contradicts
    UNKNOWN = "unknown"  # it extends tokens that nobody has seen here
    FULL = "full"  # the tree holds as many tokens as it may


@dataclass(slots=True, eq=False)
class DraftNode:
    """One drafted token. `fingerprint` is that of all tokens up to and including it.

    Attributes:
        chance: that the target draws it if it draws those before it; None: not known.
    """

    position: int
    token_id: int
    fingerprint: int
    distribution: Distribution | None = None
    chance: float | None = None
    parent: "DraftNode | None" = None
    children: dict[int, "DraftNode"] = field(default_factory=dict)
    trunk_child: "DraftNode | None" = None

    def best_child(self) -> "DraftNode | None":
        """The trunk's next token, else the oldest hedge, else nothing."""
        return self.trunk_child or next(iter(self.children.values()), None)

    def walk(self) -> Iterator["DraftNode"]:
        nodes = [self]
        while nodes:
            yield (node := nodes.pop())
            nodes += node.children.values()


class DraftTree:
    """What is drafted beyond a ledger. The ledger is read, never written.

    A branch that disagrees with the ledger falls off when the root advances; one that agrees lives on.
    """

    def __init__(self, ledger: Ledger, capacity_tokens: int = 512) -> None:
        self._ledger = ledger
        self.capacity_tokens = capacity_tokens
        self._root: DraftNode
        self._by_fingerprint: dict[int, DraftNode]
        self.drop()

    def __len__(self) -> int:
        """Drafted tokens in the tree."""
        return len(self._by_fingerprint) - 1

    def __contains__(self, fingerprint: int) -> bool:
        """Whether the tokens with this fingerprint are the root's path or a path in the tree."""
        return fingerprint in self._by_fingerprint

    @property
    def root(self) -> DraftNode:
        """The last committed token."""
        return self._root

    @property
    def position(self) -> int:
        """Position of the next token after the root."""
        return self._root.position + 1

    def graft(self, block: Block) -> Graft:
        """Hang a block's tokens below the prefix that it extends. A block that adds none changes nothing.

        A block that is late, whose first tokens are committed by now, counts from the first one that is not.
        """
        late_tokens = max(0, self.position - block.position)
        if late_tokens:
            committed = self._ledger[block.position : self.position][: len(block.token_ids)]
            if (
                self._ledger.fingerprint(block.position) != block.prefix_fingerprint
                or list(block.token_ids[:late_tokens]) != committed
            ):
                return Graft.STALE
            node: DraftNode | None = self._root
        else:
            node = self._by_fingerprint.get(block.prefix_fingerprint)
        if node is None or node.position + 1 != max(block.position, self.position):
            return Graft.UNKNOWN
        path = [node]
        size_before = len(self)
        outcome = Graft.REPEATED
        for index, token_id in enumerate(block.token_ids[late_tokens:], start=late_tokens):
            child = path[-1].children.get(token_id)
            if child is None:
                if len(self) >= self.capacity_tokens:
                    outcome = Graft.FULL
                    break
                child = self._add_child(path[-1], token_id)
                child.distribution = block.distributions[index] if block.distributions else None
                child.chance = block.chances[index] if block.chances else None
                outcome = Graft.ADDED
            path.append(child)
        if block.origin is BlockOrigin.TRUNK and len(self) > size_before:
            for parent, child in pairwise(path):
                parent.trunk_child = child
        return outcome

    def advance(self) -> int:
        """Move the root along the ledger's new tokens; what disagrees falls off.

        Returns:
            How many of the new tokens had been drafted.
        """
        drafted_tokens = 0
        for position in range(self.position, len(self._ledger)):
            child = self._root.children.get(self._ledger[position])
            if child is None:
                self.drop()
                return drafted_tokens
            drafted_tokens += 1
            self._root = child
        if drafted_tokens:
            self._root.parent = None
            self._by_fingerprint = {node.fingerprint: node for node in self._root.walk()}
        return drafted_tokens

    def best_path(self, start: DraftNode | None = None) -> list[DraftNode]:
        """The trunk's tokens behind `start`, else the root; where the trunk ends, or was left, the oldest hedge's."""
        path = []
        node = (start or self._root).best_child()
        while node is not None:
            path.append(node)
            node = node.best_child()
        return path

    def drop(self) -> None:
        """Forget everything drafted; the root stands at the ledger's last token."""
        last = len(self._ledger) - 1
        self._root = DraftNode(last, self._ledger[last], self._ledger.fingerprint(last + 1))
        self._by_fingerprint = {self._root.fingerprint: self._root}

    def _add_child(self, node: DraftNode, token_id: int) -> DraftNode:
        child = DraftNode(node.position + 1, token_id, extend_fingerprint(node.fingerprint, token_id), parent=node)
        node.children[token_id] = child
        self._by_fingerprint[child.fingerprint] = child
        return child


def join_blocks(blocks: Iterable[Block]) -> list[Block]:
    """Join neighbouring blocks where the second extends the first: fewer messages that say the same."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.origin is block.origin
            and bool(last.chances) == bool(block.chances)
            and last.known_tokens == block.known_tokens
            and last.position + len(last.token_ids) == block.position
            and reduce(extend_fingerprint, last.token_ids, last.prefix_fingerprint) == block.prefix_fingerprint
        ):
            joined[-1] = replace(
                last,
                token_ids=last.token_ids + block.token_ids,
                distributions=last.distributions + block.distributions,
                draft_ns=last.draft_ns + block.draft_ns,
                chances=last.chances + block.chances,
            )
        else:
            joined.append(block)
    return joined
