"""Where the tokens of one session's ledger and draft tree lie in the KV cache."""

import heapq
from collections.abc import Sequence

import numpy as np

from drafter_service.growth import Candidate
from sybil_engine.core.draft_tree import DraftNode, DraftTree
from sybil_engine.core.ledger import Ledger
from sybil_engine.models.rows import TreeRows


class CellMap:
    """Gives each fed token any free cell; a row names the cells of its path.

    So a branch that the commits confirm keeps its cells, and no surviving token is fed again.

    Args:
        slot: the session's slot in the cache.
        ledger, tree: read, never written.
        spare_cells: how many cells may be used beyond those that the ledger will need.

    Attributes:
        fed_tokens: how many of the ledger's first tokens have filled cells.
        used_cells: no cell from this one on has been used.
    """

    def __init__(self, slot: int, ledger: Ledger, tree: DraftTree, spare_cells: int) -> None:
        self._slot = slot
        self._ledger = ledger
        self._tree = tree
        self._spare_cells = spare_cells
        # Those below `used_cells` that hold nothing any more.
        self._free: list[int] = []
        self._committed = np.empty(256, dtype=np.int64)
        self._by_fingerprint: dict[int, int] = {}
        self.fed_tokens = 0
        self.used_cells = 0

    @property
    def hedge_cells(self) -> int:
        """Free cells that the ledger will not need, however long it gets."""
        return max(0, self._spare_cells + self.fed_tokens - self.used_cells + len(self._free))

    def advance(self) -> None:
        """Follow the ledger, after the tree did: tokens that agree keep their cells, the others' are freed."""
        while self.fed_tokens < len(self._ledger):
            cell = self._by_fingerprint.pop(self._ledger.fingerprint(self.fed_tokens + 1), None)
            if cell is None:
                break
            self._commit(cell)
        for fingerprint in [each for each in self._by_fingerprint if each not in self._tree]:
            heapq.heappush(self._free, self._by_fingerprint.pop(fingerprint))

    def feed_prompt(self, tokens: int) -> None:
        """Note that this many more prompt tokens were fed, in consecutive cells."""
        for _ in range(tokens):
            self._commit(self._take())

    def feed_ledger(self, most_rows: int) -> TreeRows:
        """Rows for the ledger's next tokens without a cell; they count as fed from now on."""
        start = self.fed_tokens
        token_ids = self._ledger[start : start + most_rows]
        cells = [self._take() for _ in token_ids]
        for cell in cells:
            self._commit(cell)
        return TreeRows(
            self._slot,
            tuple(token_ids),
            range(start, start + len(token_ids)),
            self._committed[:start],
            [cells[: row + 1] for row in range(len(cells))],
        )

    def feed_candidates(self, candidates: Sequence[Candidate]) -> TreeRows:
        """Rows for candidates; call `keep` after the pass for each one that became a drafted token."""
        cells = [self._take() for _ in candidates]
        return TreeRows(
            self._slot,
            tuple(candidate.token_id for candidate in candidates),
            [candidate.parent.position + 1 for candidate in candidates],
            self._committed[: self.fed_tokens],
            [[*self._path(candidate.parent), cell] for candidate, cell in zip(candidates, cells, strict=True)],
        )

    def keep(self, node: DraftNode, cell: int) -> None:
        """Note that a drafted token was fed into a cell."""
        self._by_fingerprint[node.fingerprint] = cell

    def _path(self, node: DraftNode) -> list[int]:
        """The cells of the path to a node from below the root, whose own cell every row sees."""
        path = []
        while node is not self._tree.root:
            path.append(self._by_fingerprint[node.fingerprint])
            assert node.parent is not None
            node = node.parent
        return path[::-1]

    def _take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self.used_cells += 1
        return self.used_cells - 1

    def _commit(self, cell: int) -> None:
        if self.fed_tokens == len(self._committed):
            self._committed = np.concatenate([self._committed, self._committed])
        self._committed[self.fed_tokens] = cell
        self.fed_tokens += 1
