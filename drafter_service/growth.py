"""How one session's draft tree grows: which tokens are fed next, where their cells lie, and what survives a commit."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drafter_service.calibration import Calibration
from sybil_engine.core.draft_tree import DraftNode, DraftTree
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.types import Block, BlockOrigin
from sybil_engine.models.rows import TreeRows
from sybil_engine.sampling.draw import Guess


@dataclass(frozen=True, slots=True)
class Fed:
    """A token whose cell is filled.

    Attributes:
        guesses: what may follow it, most likely first.
    """

    cell: int
    guesses: tuple[Guess, ...]


@dataclass(frozen=True, slots=True)
class Sprout:
    """A guess that may be fed next, so that the tree grows behind it.

    Attributes:
        parent: the token before it, which is fed.
        own_chance: that the target draws it if it draws those before it.
        chance: that the target's tokens come through here.
        on_trunk: whether it is the best guess after best guesses.
    """

    parent: DraftNode
    token_id: int
    own_chance: float
    chance: float
    on_trunk: bool


class Growth:
    """Ledger, draft tree and cells of one session. Rollback is what `advance` does when the ledger disagrees.

    Each fed token has a cell of its own, wherever one is free; a row sees the cells of its path. So a branch that the
    commits run into keeps its cells, and nothing that survives is fed again.

    Args:
        ledger: read, never written.
        cells: of the session's slot that may be used.
        context_tokens: the most that the ledger may hold.
    """

    # A hedge is grown only while it has this chance to be reached.
    _LEAST_CHANCE = 0.02
    # Runners-up that are drafted though nothing grows behind them yet: judged beside the trunk, one is worth the token
    # that the target draws behind it.
    _MOST_RUNNERS_UP = 3

    def __init__(self, ledger: Ledger, cells: int, context_tokens: int, calibration: Calibration) -> None:
        self._ledger = ledger
        self._calibration = calibration
        self.tree = DraftTree(ledger)
        self._free = list(range(cells))
        self._context_tokens = context_tokens
        self._committed_cells: list[int] = []
        self._seen_by_all = np.zeros(cells, dtype=np.bool_)
        self._fed: dict[int, Fed] = {}
        self._depth = 0
        self._hedged = False
        self._least_chance = 0.0
        self._frontier: list[tuple[bool, float, int, Sprout]] | None = None
        self._added = 0

    @property
    def fed_tokens(self) -> int:
        """The ledger's tokens whose cells are filled: its first ones."""
        return len(self._committed_cells)

    @property
    def free_cells(self) -> int:
        return len(self._free)

    def advance(self) -> None:
        """Follow the ledger: what it agrees with keeps its cells, the rest gives them back."""
        for position in range(self.tree.position, len(self._ledger)):
            if fed := self._fed.get(self._ledger.fingerprint(position)):
                self._calibration.saw(fed.guesses, self._ledger[position])
        while self.fed_tokens < len(self._ledger):
            fed = self._fed.get(self._ledger.fingerprint(self.fed_tokens + 1))
            if fed is None:
                break
            self._commit_cell(fed.cell)
        self.tree.advance()
        self._frontier = None
        for fingerprint in [each for each in self._fed if each not in self.tree]:
            cell = self._fed.pop(fingerprint).cell
            if not self._seen_by_all[cell]:
                heapq.heappush(self._free, cell)

    def feed_prompt(self, tokens: int) -> None:
        """Note that so many more tokens were fed in chunks, cell after cell."""
        for _ in range(tokens):
            self._commit_cell(heapq.heappop(self._free))

    def feed_ledger(self, slot: int, most_rows: int) -> TreeRows:
        """Rows for the ledger's next tokens that have no cell; they count as fed from now on."""
        start = self.fed_tokens
        token_ids = self._ledger[start : start + most_rows]
        visible = []
        for _ in token_ids:
            self._commit_cell(heapq.heappop(self._free))
            visible.append(self._seen_by_all.copy())
        return TreeRows(
            slot,
            tuple(token_ids),
            tuple(range(start, start + len(token_ids))),
            tuple(self._committed_cells[start:]),
            np.stack(visible),
        )

    def feed_sprouts(self, slot: int, sprouts: Sequence[Sprout]) -> TreeRows:
        """Rows for sprouts; `grow` says afterwards what follows them."""
        cells = [heapq.heappop(self._free) for _ in sprouts]
        visible = np.repeat(self._seen_by_all[None], len(sprouts), axis=0)
        for row, (sprout, cell) in enumerate(zip(sprouts, cells, strict=True)):
            visible[row, cell] = True
            for node in self._path(sprout.parent):
                visible[row, self._fed[node.fingerprint].cell] = True
        return TreeRows(
            slot,
            tuple(sprout.token_id for sprout in sprouts),
            tuple(sprout.parent.position + 1 for sprout in sprouts),
            tuple(cells),
            visible,
        )

    def aim(self, depth: int, *, hedged: bool, least_chance: float = 0.0) -> None:
        """Say what to grow from now on.

        Args:
            depth: how far beyond the ledger tokens may stand, those that come out of feeding included.
            hedged: whether to grow anything but the trunk.
            least_chance: the trunk grows no further behind a token that has less of a chance to be reached.
        """
        self._depth = depth
        self._least_chance = least_chance
        self._hedged = hedged
        self._frontier = None

    @property
    def sprouts(self) -> bool:
        """Whether there is anything to feed next behind the ledger's tokens."""
        frontier = self._sprouting()
        return self._has_room and bool(frontier) and (frontier[0][-1].on_trunk or self._branch_cells > 0)

    def take(self, most: int) -> list[Sprout]:
        """Choose what is fed next: the trunk's tip first, then hedges, the likeliest first."""
        frontier = self._sprouting()
        taken: list[Sprout] = []
        branch_cells = self._branch_cells
        while frontier and self._has_room and len(taken) < most:
            if not frontier[0][-1].on_trunk:
                if not branch_cells:
                    break
                branch_cells -= 1
            taken.append(heapq.heappop(frontier)[-1])
        return taken

    def grow_root(self, guesses: tuple[Guess, ...]) -> list[Block]:
        """Take what follows the ledger's last token, which was fed.

        Returns:
            The drafted token as a block, and its runners-up.
        """
        self._fed[self.tree.root.fingerprint] = Fed(self._committed_cells[-1], guesses)
        self._frontier = None
        block = self._draft(self.tree.root, None, guesses[0], BlockOrigin.TRUNK)
        return [block, *self._runners_up(self.tree.root, guesses, 1.0)]

    def grow(self, sprout: Sprout, cell: int, guesses: tuple[Guess, ...]) -> list[Block]:
        """Take what follows a sprout, which was fed.

        Returns:
            What is newly drafted, as blocks: the token behind the sprout, and a hedge's own token before it; then the
            runners-up of the token behind.
        """
        origin = BlockOrigin.TRUNK if sprout.on_trunk else BlockOrigin.HEDGE
        node = sprout.parent.children.get(sprout.token_id)
        if node is not None:
            block = self._draft(node, None, guesses[0], origin)
        else:
            block = self._draft(sprout.parent, sprout, guesses[0], origin)
            node = sprout.parent.children[sprout.token_id]
        self._fed[node.fingerprint] = Fed(cell, guesses)
        if self._frontier is not None:
            for behind in self._sprouts_behind(node, sprout.chance, sprout.on_trunk):
                self._add(self._frontier, behind)
        return [block, *self._runners_up(node, guesses, sprout.chance)]

    @property
    def _branch_cells(self) -> int:
        """Free cells that the ledger can do without, however long it gets."""
        return max(0, len(self._free) - (self._context_tokens - self.fed_tokens))

    @property
    def _has_room(self) -> bool:
        # Of a hedge two tokens are new: its own, and the one behind it.
        return len(self.tree) + 2 <= self.tree.capacity_tokens

    def _sprouting(self) -> list[tuple[bool, float, int, Sprout]]:
        """What may be fed, as a heap; found anew after the root moved."""
        if self._frontier is None:
            self._frontier = []
            for sprout in self._sprouts_behind(self.tree.root, 1.0, True):
                self._add(self._frontier, sprout)
        return self._frontier

    def _add(self, frontier: list[tuple[bool, float, int, Sprout]], sprout: Sprout) -> None:
        self._added += 1
        heapq.heappush(frontier, (not sprout.on_trunk, -sprout.chance, self._added, sprout))

    def _sprouts_behind(self, node: DraftNode, chance: float, on_trunk: bool) -> Iterator[Sprout]:
        fed = self._fed.get(node.fingerprint)
        # What comes out of feeding a sprout stands two behind the node.
        if fed is None or node.position + 2 > self.tree.root.position + self._depth:
            return
        for rank, guess in enumerate(fed.guesses if self._hedged else fed.guesses[:1]):
            guess_on_trunk = on_trunk and rank == 0
            child = node.children.get(guess.token_id)
            # What the verifier was told holds: both sides must find a token as likely as the other does.
            told = None if child is None else child.chance
            own_chance = self._calibration.chance(rank, guess.certainty) if told is None else told
            guess_chance = chance * own_chance
            if guess_chance < (self._least_chance if guess_on_trunk else self._LEAST_CHANCE):
                continue
            if child is not None and child.fingerprint in self._fed:
                yield from self._sprouts_behind(child, guess_chance, guess_on_trunk)
            else:
                yield Sprout(node, guess.token_id, own_chance, guess_chance, guess_on_trunk)

    def _draft(self, node: DraftNode, sprout: Sprout | None, guess: Guess, origin: BlockOrigin) -> Block:
        """Draft a guess behind a node, or behind a sprout of the node's that is drafted with it."""
        block = Block(
            node.position + 1,
            node.fingerprint,
            (sprout.token_id, guess.token_id) if sprout else (guess.token_id,),
            origin,
            (guess.distribution,) if guess.distribution else (),
            chances=(*((sprout.own_chance,) if sprout else ()), self._calibration.chance(0, guess.certainty)),
        )
        self.tree.graft(block)
        return block

    def _runners_up(self, node: DraftNode, guesses: tuple[Guess, ...], chance: float) -> Iterator[Block]:
        """The guesses behind the best one that have a chance, for the verifier alone: here they are no drafts yet."""
        if not self._hedged:
            return
        for rank, guess in enumerate(guesses[1 : 1 + self._MOST_RUNNERS_UP], start=1):
            own_chance = self._calibration.chance(rank, guess.certainty)
            if chance * own_chance >= self._LEAST_CHANCE:
                position, chances = node.position + 1, (own_chance,)
                yield Block(position, node.fingerprint, (guess.token_id,), BlockOrigin.HEDGE, chances=chances)

    def _path(self, node: DraftNode) -> Iterator[DraftNode]:
        """A node and those before it, up to the root, whose cell everybody sees."""
        while node is not self.tree.root:
            yield node
            assert node.parent is not None
            node = node.parent

    def _commit_cell(self, cell: int) -> None:
        self._committed_cells.append(cell)
        self._seen_by_all[cell] = True
