"""Preparing a pass: tokens, positions, mask, and the cells that it writes and sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sybil_engine.models import attention
from sybil_engine.models.cache import SlottedCache
from sybil_engine.models.kernels.seen_cells import LIST_STEP
from sybil_engine.models.passes.execution import PassInputs
from sybil_engine.models.rows import Rows, TreeRows

# Values of a chunk are summed in tiles (`attention.TILE_CELLS`), so each sum is over a whole tile or half of one. On
# some processors MKL splits a sum over 192 cells, and then a row's last bits would depend on how many cells are in view.
_SPAN_CELLS = attention.TILE_CELLS // 2

Ints = npt.NDArray[np.integer[Any]]


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

    def __init__(self, cache: SlottedCache, context_tokens: int, groups: int, *, listed: bool) -> None:
        self._cache = cache
        self._device, self._dtype = cache.keys.device, cache.keys.dtype
        self._listed = listed
        self._groups, self._kv_heads = (groups, cache.keys.shape[3]) if listed else (1, 1)
        self._cells = torch.arange(cache.cells, device=self._device)
        self._positions = self._cells.clamp(max=context_tokens - 1)

    def chunk(self, chunk: Rows, padded: int) -> PassInputs:
        """Prepare a pass over a chunk of a prompt, padded to this many rows."""
        own = range(chunk.position, chunk.position + padded)
        span = whole_spans(own.stop)
        cells = self._cells[own.start : own.stop].unsqueeze(0)
        token_ids = chunk.token_ids + (0,) * (padded - len(chunk.token_ids))
        mask = attention.visibility(cells, span, groups=self._groups, kv_heads=self._kv_heads, dtype=self._dtype)
        return PassInputs(
            torch.tensor([token_ids], device=self._device),
            self._positions[cells],
            mask if self._listed else mask[:, :, :padded],
            self._cache.chunk(chunk.slot, own, span),
        )

    def rows(self, batch: Sequence[Rows], total: int) -> PassInputs:
        """Prepare a pass of exactly `total` rows: each sees its session's cells up to its own."""
        return self._inputs([_part(rows) for rows in batch], total)

    def tree(self, batch: Sequence[TreeRows], total: int) -> PassInputs:
        """Prepare a pass of exactly `total` rows, each of which sees only its path."""
        parts = [
            _Part(
                rows.slot, rows.token_ids, rows.positions, np.array(rows.cells), list(map(np.flatnonzero, rows.visible))
            )
            for rows in batch
        ]
        return self._inputs(parts, total)

    def _inputs(self, parts: "Sequence[_Part]", total: int) -> PassInputs:
        """Padding is fed into the last cell of all."""
        token_ids, positions = np.zeros((2, 1, total), dtype=np.int64)
        cells = np.full(total, self._padding_cell)
        paths: list[Ints] = []
        for part in parts:
            start, end = len(paths), len(paths) + len(part.token_ids)
            first = part.slot * self._cache.cells
            token_ids[0, start:end], positions[0, start:end] = part.token_ids, part.positions
            cells[start:end] = part.cells + first
            paths += (path + first for path in part.paths)
        if self._listed:
            mask, order = self._lists(paths, total), None
        else:
            mask, order = self._ordered(paths, total)
        to_write = torch.from_numpy(cells).to(self._device)
        inputs = (torch.from_numpy(each).to(self._device) for each in (token_ids, positions))
        return PassInputs(*inputs, mask, self._cache.listed(to_write, order))

    @property
    def _padding_cell(self) -> int:
        return (self._cache.slots + 1) * self._cache.cells - 1

    def _lists(self, paths: Sequence[Ints], total: int) -> Tensor:
        """The cells that each row sees; see `attention.cell_attention`."""
        most = -(-max(map(len, paths)) // LIST_STEP) * LIST_STEP
        lists = np.full((total, 1 + most), self._padding_cell, dtype=np.int32)
        lists[:, 0] = 1
        for row, path in enumerate(paths):
            lists[row, 0] = len(path)
            lists[row, 1 : 1 + len(path)] = path
        return torch.from_numpy(lists).to(self._device)[None, None]

    def _ordered(self, paths: Sequence[Ints], total: int) -> tuple[Tensor, Tensor]:
        """For stock attention: a mask, and all cells that some row sees, those of the first path first."""
        order = list(dict.fromkeys(np.concatenate(paths).tolist()))
        places = {cell: place for place, cell in enumerate(order)}
        mask = torch.full((1, 1, total, whole_spans(len(order))), float("-inf"), dtype=self._dtype)
        mask[:, :, len(paths) :] = 0
        for row, path in enumerate(paths):
            mask[0, 0, row, [places[cell] for cell in path.tolist()]] = 0
        order += [self._padding_cell] * (mask.shape[3] - len(order))
        return mask.to(self._device), torch.tensor(order, device=self._device)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One session's rows of a pass.

    Attributes:
        cells: of the slot, one for each row.
        paths: the cells that each row sees, its own included, in order.
    """

    slot: int
    token_ids: Sequence[int]
    positions: Sequence[int]
    cells: Ints
    paths: Sequence[Ints]


def _part(rows: Rows) -> _Part:
    count = len(rows.token_ids)
    first = rows.position if rows.first_cell is None else rows.first_cell
    path = np.concatenate([np.arange(rows.position), np.arange(first, first + count)])
    positions = range(rows.position, rows.position + count)
    paths = [path[: position + 1] for position in positions]
    return _Part(rows.slot, rows.token_ids, positions, path[rows.position :], paths)
