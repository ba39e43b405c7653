"""Rows of a pass: the tokens to feed, and how they are packed into passes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of one session for one pass.

    Attributes:
        slot: the session's slot in the cache.
        position: of the first token; every cell before it is visible.
        token_ids: in order; each sees those before it.
        first_cell: the cell of the first token; None: the cell of its position. A branch's cells lie elsewhere, but its
            rows, too, see the cells before `position` first.
    """

    slot: int
    position: int
    token_ids: tuple[int, ...]
    first_cell: int | None = None

    def part(self, offset: int, most_rows: int) -> "Rows":
        """At most `most_rows` of the rows, from `offset` on."""
        assert self.first_cell is None, "a branch fits one pass"
        return Rows(self.slot, self.position + offset, self.token_ids[offset : offset + most_rows])

    def cut(self, most_rows: int) -> "list[Rows]":
        """Cut the tokens into pieces of `most_rows`; the last one may be shorter."""
        if len(self.token_ids) <= most_rows:
            return [self]
        return [self.part(offset, most_rows) for offset in range(0, len(self.token_ids), most_rows)]


@dataclass(frozen=True, slots=True, eq=False)
class TreeRows:
    """Tokens of one session that may stand on different branches, for one pass.

    Attributes:
        slot: the session's slot in the cache.
        token_ids, positions: of each row: its token, and the token's position on its path.
        trunk: cells that every row sees, in the order of their positions.
        paths: the cells that each row sees after those, its own last.
    """

    slot: int
    token_ids: tuple[int, ...]
    positions: Sequence[int]
    trunk: npt.NDArray[np.int64]
    paths: Sequence[Sequence[int]]

    @property
    def cells(self) -> list[int]:
        """Of each row: the cell that it fills."""
        return [path[-1] for path in self.paths]


def on_one_path(rows: Rows) -> TreeRows:
    """Rows that follow one another, each of which sees those before it."""
    count = len(rows.token_ids)
    first = rows.position if rows.first_cell is None else rows.first_cell
    cells = range(first, first + count)
    return TreeRows(
        rows.slot,
        rows.token_ids,
        range(rows.position, rows.position + count),
        np.arange(rows.position),
        [cells[: row + 1] for row in range(count)],
    )


def pack(batch: Sequence[Rows], most_rows: int, *, shared: bool = True) -> list[list[Rows]]:
    """Pack a batch into passes of at most `most_rows` rows, in order; rows that do not fit are cut.

    Args:
        shared: whether a pass may hold several sessions.
    """
    passes: list[list[Rows]] = []
    room = 0
    for rows in batch:
        # A branch is never cut.
        if not shared or room < (len(rows.token_ids) if rows.first_cell is not None else 1):
            room = 0
        offset = 0
        while offset < len(rows.token_ids):
            if not room:
                passes.append([])
                room = most_rows
            count = min(room, len(rows.token_ids) - offset)
            passes[-1].append(rows if count == len(rows.token_ids) else rows.part(offset, count))
            offset, room = offset + count, room - count
    return passes


def count_rows(batch: Sequence[Rows | TreeRows]) -> int:
    """The rows of all members together."""
    return sum(len(member.token_ids) for member in batch)
