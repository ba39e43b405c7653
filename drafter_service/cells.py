"""Where the tokens of one session's ledger and draft tree lie in the KV cache."""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from drafter_service.growth import Candidate
from sybil_engine.core.draft_tree import DraftNode, DraftTree
from sybil_engine.core.ledger import Ledger
from sybil_engine.models.rows import TreeRows


class CellMap:
    """Gives each fed token any free cell; a row's mask names the cells of its path.

    So a branch that the commits confirm keeps its cells, and no surviving token is fed again.

    Args:
        slot: the session's slot in the cache.
        ledger, tree: read, never written.
        cells: how many cells of the slot may be used.
        context_tokens: the most tokens that the ledger may hold.
    """

    def __init__(self, slot: int, ledger: Ledger, tree: DraftTree, cells: int, context_tokens: int) -> None:
        self._slot = slot
        self._ledger = ledger
        self._tree = tree
        self._context_tokens = context_tokens
        self._free = list(range(cells))
        self._committed: list[int] = []
        self._seen_by_all = np.zeros(cells, dtype=np.bool_)
        self._by_fingerprint: dict[int, int] = {}

    @property
    def fed_tokens(self) -> int:
        """How many of the ledger's first tokens have filled cells."""
        return len(self._committed)

    @property
    def hedge_cells(self) -> int:
        """Free cells that the ledger will not need, however long it gets."""
        return max(0, len(self._free) - (self._context_tokens - self.fed_tokens))

    def advance(self) -> None:
        """Follow the ledger, after the tree did: tokens that agree keep their cells, the others' are freed."""
        while self.fed_tokens < len(self._ledger):
            cell = self._by_fingerprint.get(self._ledger.fingerprint(self.fed_tokens + 1))
            if cell is None:
                break
            self._commit(cell)
        for fingerprint in [each for each in self._by_fingerprint if each not in self._tree]:
            cell = self._by_fingerprint.pop(fingerprint)
            if not self._seen_by_all[cell]:
                heapq.heappush(self._free, cell)

    def feed_prompt(self, tokens: int) -> None:
        """Note that this many more prompt tokens were fed, in consecutive cells."""
        for _ in range(tokens):
            self._commit(heapq.heappop(self._free))

    def feed_ledger(self, most_rows: int) -> TreeRows:
        """Rows for the ledger's next tokens without a cell; they count as fed from now on."""
        start = self.fed_tokens
        token_ids = self._ledger[start : start + most_rows]
        visible = []
        for _ in token_ids:
            self._commit(heapq.heappop(self._free))
            visible.append(self._seen_by_all.copy())
        positions = tuple(range(start, start + len(token_ids)))
        return TreeRows(self._slot, tuple(token_ids), positions, tuple(self._committed[start:]), np.stack(visible))

    def feed_candidates(self, candidates: Sequence[Candidate]) -> TreeRows:
        """Rows for candidates; call `keep` after the pass for each one that became a drafted token."""
        cells = [heapq.heappop(self._free) for _ in candidates]
        visible = np.repeat(self._seen_by_all[None], len(candidates), axis=0)
        for row, (candidate, cell) in enumerate(zip(candidates, cells, strict=True)):
            visible[row, cell] = True
            for node in self._path(candidate.parent):
                visible[row, self._by_fingerprint[node.fingerprint]] = True
        return TreeRows(
            self._slot,
            tuple(candidate.token_id for candidate in candidates),
            tuple(candidate.parent.position + 1 for candidate in candidates),
            tuple(cells),
            visible,
        )

    def keep(self, node: DraftNode, cell: int) -> None:
        """Note that a drafted token was fed into a cell."""
        self._by_fingerprint[node.fingerprint] = cell

    def _path(self, node: DraftNode) -> Iterator[DraftNode]:
        """A node and its ancestors below the root; the root's cell is seen by every row anyway."""
        while node is not self._tree.root:
            yield node
            assert node.parent is not None
            node = node.parent

    def _commit(self, cell: int) -> None:
        self._committed.append(cell)
        self._seen_by_all[cell] = True
