"""Preparing a pass: tokens, positions, mask, and the cells that it writes and sees."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sybil_engine.models import attention
from sybil_engine.models.cache import CacheView, SlottedCache
from sybil_engine.models.passes.execution import PassInputs
from sybil_engine.models.rows import Rows, Shape, TreeRows

# Values are summed in tiles (`attention.TILE_CELLS`), so each sum is over a whole tile or half of one. On some
# processors MKL splits a sum over 192 cells, and then a row's last bits would depend on how many cells its neighbours
# in the pass see.
_SPAN_CELLS = attention.TILE_CELLS // 2


def whole_spans(cells: int) -> int:
    """Round a number of cells up to what a pass may see."""
    return -(-cells // _SPAN_CELLS) * _SPAN_CELLS


class Preparation:
    """Prepares passes over one cache.

    Args:
        context_tokens: positions stay below this, padding included.
        groups: query heads to a key head.
        folded: whether masks are folded for `attention.ragged_attention`, or have the shape for stock attention.
    """

    def __init__(self, cache: SlottedCache, context_tokens: int, groups: int, *, folded: bool) -> None:
        self._cache = cache
        self._device, self._dtype = cache.keys.device, cache.keys.dtype
        self._folded = folded
        self._groups, self._kv_heads = (groups, cache.keys.shape[2]) if folded else (1, 1)
        self._cells = torch.arange(cache.cells, device=self._device)
        self._positions = self._cells.clamp(max=context_tokens - 1)

    def rows(self, batch: Sequence[Rows], shape: Shape) -> PassInputs:
        """Prepare a pass of exactly this shape, padded after each session's rows and with scratch sessions."""
        sessions, rows = shape
        span = whole_spans(max(member.position for member in batch) + rows)
        if any(member.first_cell is not None for member in batch):
            cells, view = self._with_branches(batch, shape, span)
        elif sessions == 1:
            cells, view = self._alone(batch[0], rows, span)
        else:
            slots, cells = self._cells_of_positions(batch, shape)
            view = self._cache.view(slots, cells, span)
        token_ids = [member.token_ids + (0,) * (rows - len(member.token_ids)) for member in batch]
        token_ids += [(0,) * rows] * (sessions - len(batch))
        return PassInputs(
            torch.tensor(token_ids, device=self._device), self._positions[cells], self._mask(cells, span), view
        )

    def tree(self, batch: Sequence[TreeRows], shape: Shape) -> PassInputs:
        """Prepare a pass of exactly this shape whose rows see only their paths; padding takes the slot's last cell."""
        sessions, rows = shape
        # A row's own cell may lie before those of its path.
        span = whole_spans(max(int(np.flatnonzero(member.visible.any(axis=0))[-1]) for member in batch) + 1)
        # Of each row: its token, position and cell.
        numbers = np.zeros((3, sessions, rows), dtype=np.int64)
        numbers[2] = self._cache.cells - 1
        hidden = np.zeros((sessions, rows, span), dtype=np.bool_)
        for place, member in enumerate(batch):
            count = len(member.token_ids)
            numbers[:, place, :count] = member.token_ids, member.positions, member.cells
            # The slot's last cell is for padding: no tree may see it.
            hidden[place, :count, -1] = True
            seen = member.visible[:, :span]
            hidden[place, :count, : seen.shape[1]] = ~seen
        slots = self._slots(batch, sessions)
        token_ids, positions, cells = torch.from_numpy(numbers).to(self._device)
        own = numbers[2, 0].tolist()
        neighbours = range(own[0], own[0] + rows)
        view = self._cache.view(slots, neighbours if sessions == 1 and own == [*neighbours] else cells, span)
        return PassInputs(token_ids, positions, self._fold(torch.from_numpy(hidden).to(self._device)), view)

    def _alone(self, only: Rows, rows: int, span: int) -> tuple[Tensor, CacheView]:
        own = range(only.position, only.position + rows)
        cells = self._cells[own.start : own.stop].unsqueeze(0)
        return cells, self._cache.view((only.slot,), own, span)

    def _with_branches(self, batch: Sequence[Rows], shape: Shape, span: int) -> tuple[Tensor, CacheView]:
        """Branches write cells of their own; their rows see these in place of the cells of their positions."""
        sessions, rows = shape
        slots, cells = self._cells_of_positions(batch, shape)
        first_cells = [member.position if member.first_cell is None else member.first_cell for member in batch]
        first_cells += [0] * (sessions - len(batch))
        written = torch.tensor(first_cells, device=self._device).unsqueeze(1) + self._cells[:rows]
        order = self._cells[:span].repeat(sessions, 1).scatter_(1, cells, written)
        return cells, self._cache.view(slots, written, span, order)

    def _cells_of_positions(self, batch: Sequence[Rows], shape: Shape) -> tuple[list[int], Tensor]:
        """The slot of each session, and [sessions, rows]: the cell of each row's position."""
        sessions, rows = shape
        starts = [member.position for member in batch] + [0] * (sessions - len(batch))
        cells = torch.tensor(starts, device=self._device).unsqueeze(1) + self._cells[:rows]
        return self._slots(batch, sessions), cells

    def _slots(self, batch: Sequence[Rows | TreeRows], sessions: int) -> list[int]:
        return [member.slot for member in batch] + [self._cache.scratch_slot] * (sessions - len(batch))

    def _mask(self, cells: Tensor, span: int) -> Tensor:
        """Each row sees every cell up to its own."""
        mask = attention.visibility(cells, span, groups=self._groups, kv_heads=self._kv_heads, dtype=self._dtype)
        return mask if self._folded else mask[:, :, : cells.shape[1]]

    def _fold(self, hidden: Tensor) -> Tensor:
        """Build a mask from [sessions, rows, span]: whether each cell is hidden from each row."""
        mask = attention.fold_mask(hidden, groups=self._groups, kv_heads=self._kv_heads, dtype=self._dtype)
        return mask if self._folded else mask[:, :, : hidden.shape[1]]
