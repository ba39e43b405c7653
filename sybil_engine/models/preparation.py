"""Preparing a pass: tokens, positions, mask, and the cells that it writes and sees."""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np
import torch
from torch import Tensor

from sybil_engine.models import attention
from sybil_engine.models.cache import PagedCache
from sybil_engine.models.kernels.seen_cells import LIST_STEP
from sybil_engine.models.pages import Cells
from sybil_engine.models.passes.execution import PassInputs
from sybil_engine.models.rows import Rows, TreeRows, on_one_path

# Values of a chunk are summed in tiles (`attention.TILE_CELLS`), so each sum is over a whole tile or half of one. Some
# processors split a sum over 192 cells, and then a row's last bits would depend on how many cells are in view.
_SPAN_CELLS = attention.TILE_CELLS // 2


def whole_spans(cells: int) -> int:
    """Round a number of cells up to what a product may see."""
    return -(-cells // _SPAN_CELLS) * _SPAN_CELLS


class Preparation:
    """Prepares passes over one cache.

    Args:
        context_tokens: positions stay below this, padding included.
        groups: query heads to a key head.
        listed: whether masks list cells for `attention.cell_attention`, or have the shape for stock attention.
    """

    def __init__(self, cache: PagedCache, context_tokens: int, groups: int, *, listed: bool) -> None:
        self._cache = cache
        self._device, self._dtype = cache.keys.device, cache.keys.dtype
        self._listed = listed
        self._groups, self._kv_heads = (groups, cache.keys.shape[2]) if listed else (1, 1)
        self._last_position = context_tokens - 1

    def chunk(self, chunk: Rows, padded: int) -> PassInputs:
        """Prepare a pass over a chunk of a prompt, padded to this many rows."""
        own = range(chunk.position, chunk.position + padded)
        span = whole_spans(own.stop)
        cells = torch.arange(own.start, own.stop, device=self._device)
        token_ids = chunk.token_ids + (0,) * (padded - len(chunk.token_ids))
        mask = attention.visibility(cells, span, groups=self._groups, kv_heads=self._kv_heads, dtype=self._dtype)
        return PassInputs(
            torch.tensor([token_ids], device=self._device),
            cells.clamp(max=self._last_position).unsqueeze(0),
            mask if self._listed else mask[:, :, :padded],
            self._cache.chunk(chunk.slot, own, span),
        )

    def rows(self, batch: Sequence[Rows | TreeRows], total: int) -> PassInputs:
        """Prepare a pass of exactly `total` rows: each sees its path. Padding is fed into the cell for it."""
        members = [on_one_path(rows) if isinstance(rows, Rows) else rows for rows in batch]
        token_ids, positions = np.zeros((2, 1, total), dtype=np.int64)
        cells = np.full(total, self._cache.padding_cell)
        trunks: list[Cells] = []
        paths: list[Cells] = []
        for member in members:
            rows = len(member.token_ids)
            start, end = len(paths), len(paths) + rows
            token_ids[0, start:end], positions[0, start:end] = member.token_ids, member.positions
            trunks += [self._cache.pool.place(member.slot, member.trunk)] * rows
            paths += self._placed(member)
        cells[: len(paths)] = [path[-1] for path in paths]
        mask, order = (self._lists if self._listed else self._ordered)(trunks, paths, total)
        return PassInputs(
            torch.from_numpy(token_ids).to(self._device),
            torch.from_numpy(positions).to(self._device),
            mask,
            self._cache.listed(cells, order),
        )

    def _placed(self, member: TreeRows) -> list[Cells]:
        """Where the cells of a member's paths lie in the cache."""
        places = self._cache.pool.place(member.slot, list(chain.from_iterable(member.paths)))
        ends = list(accumulate(map(len, member.paths)))
        return [places[start:end] for start, end in pairwise([0, *ends])]

    def _lists(self, trunks: Sequence[Cells], paths: Sequence[Cells], total: int) -> tuple[Tensor, None]:
        """The cells that each row sees; see `attention.cell_attention`."""
        most = max(len(trunk) + len(path) for trunk, path in zip(trunks, paths, strict=True))
        lists = np.full((total, 1 + -(-most // LIST_STEP) * LIST_STEP), self._cache.padding_cell, dtype=np.int32)
        lists[:, 0] = 1
        for row, (trunk, path) in enumerate(zip(trunks, paths, strict=True)):
            end = 1 + len(trunk)
            lists[row, 0] = len(trunk) + len(path)
            lists[row, 1:end], lists[row, end : end + len(path)] = trunk, path
        return torch.from_numpy(lists).to(self._device)[None, None], None

    def _ordered(self, trunks: Sequence[Cells], paths: Sequence[Cells], total: int) -> tuple[Tensor, Cells]:
        """For stock attention: a mask, and all cells that some row sees, those of the first path first."""
        seen = [np.concatenate(pair).tolist() for pair in zip(trunks, paths, strict=True)]
        order = list(dict.fromkeys(chain(*seen)))
        places = {cell: place for place, cell in enumerate(order)}
        mask = torch.full((1, 1, total, whole_spans(len(order))), float("-inf"), dtype=self._dtype)
        mask[:, :, len(paths) :] = 0
        for row, cells in enumerate(seen):
            mask[0, 0, row, [places[cell] for cell in cells]] = 0
        order += [self._cache.padding_cell] * (mask.shape[3] - len(order))
        return mask.to(self._device), np.array(order)
