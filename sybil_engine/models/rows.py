"""Rows of a pass: the tokens to feed, and how they are packed into passes of allowed shapes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

Shape = tuple[int, int]
"""Sessions of one pass, and rows of each session, padding included."""


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
        token_ids, positions, cells: of each row: its token, the token's position on its path, and its cell.
        visible: [rows, cells of the slot], bool: the cells of each row's path, its own included.
    """

    slot: int
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    cells: tuple[int, ...]
    visible: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one session's rows, small enough for one pass.

    Attributes:
        index: the number of the piece in its session; later pieces see the cells of earlier ones.
        start: index of its first row in the results of the whole batch.
    """

    rows: Rows
    index: int
    start: int


@dataclass(frozen=True, slots=True)
class Pass:
    """Pieces of different sessions that share one forward pass."""

    pieces: tuple[Piece, ...]
    shape: Shape


def pack(batch: Sequence[Rows], most_rows: int, fit: Callable[[int, int], Shape | None]) -> list[Pass]:
    """Pack a batch into as few passes as the allowed shapes permit, with sessions of similar length together.

    Args:
        most_rows: the most rows of one session in one pass.
        fit: returns the smallest allowed shape for a number of sessions, and of rows for each; None if none fits.
    """
    pieces = sorted(_cut(batch, most_rows), key=lambda piece: (piece.index, -len(piece.rows.token_ids)))
    passes: list[Pass] = []
    for _, alike in groupby(pieces, key=lambda piece: piece.index):
        group: list[Piece] = []
        for piece in alike:
            if group and fit(len(group) + 1, len(group[0].rows.token_ids)) is None:
                passes.append(_pass(group, fit))
                group = []
            group.append(piece)
        passes.append(_pass(group, fit))
    return passes


def _cut(batch: Sequence[Rows], most_rows: int) -> Iterator[Piece]:
    start = 0
    for rows in batch:
        for index, piece in enumerate(rows.cut(most_rows)):
            yield Piece(piece, index, start)
            start += len(piece.token_ids)


def _pass(group: list[Piece], fit: Callable[[int, int], Shape | None]) -> Pass:
    """Order pieces by slot, so that the cache can show neighbouring slots without a copy."""
    shape = fit(len(group), len(group[0].rows.token_ids))
    assert shape is not None, "a single session of most_rows always fits"
    return Pass(tuple(sorted(group, key=lambda piece: piece.rows.slot)), shape)
