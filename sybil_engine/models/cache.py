"""The KV cache of many sessions: keys and values of cells that come in pages, see `pages`.

Forgetting tokens costs nothing: the caller says which cells a pass writes and which it sees, and stale cells are
overwritten before they are seen again. A model gets a `PassCache`, which lives for one pass.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from sybil_engine.models.pages import PAGE_CELLS, Cells, PagePool

ViewKind = Literal["chunk", "listed", "ordered"]


@dataclass(frozen=True, slots=True)
class CellShape:
    """What the cache holds for one token in each layer."""

    layers: int
    kv_heads: int
    key_dim: int
    value_dim: int

    def page_bytes(self, dtype: torch.dtype) -> int:
        """What a page takes."""
        return PAGE_CELLS * self.layers * self.kv_heads * (self.key_dim + self.value_dim) * dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class CacheView:
    """The cells that one pass writes and sees.

    Attributes:
        kind: `chunk`: a chunk of a prompt, which sees whole pages; `listed`: any cells, of which the attention mask
            names those that each row sees; `ordered`: any cells, seen in a given order.
        tensors: keys and values of the whole cache, [layers, cells, kv_heads, dim]; [rows], the cells to write to; of a
            chunk, [pages], those to see; if ordered, [span], the cells to see.
    """

    kind: ViewKind
    tensors: tuple[Tensor, ...]


class PagedCache:
    """Keys and values as [layers, cells, kv_heads, dim], and the pool of their pages.

    One page more than the pool has is for padding. All hold zeros at first, so that a masked cell is always a finite
    number.
    """

    def __init__(
        self, shape: CellShape, pool: PagePool, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.pool = pool
        axes = (shape.layers, (pool.pages + 1) * PAGE_CELLS, shape.kv_heads)
        self.keys = torch.zeros(*axes, shape.key_dim, dtype=dtype, device=device)
        self.values = torch.zeros(*axes, shape.value_dim, dtype=dtype, device=device)

    @property
    def padding_cell(self) -> int:
        """Belongs to no session."""
        return self.keys.shape[1] - 1

    def chunk(self, slot: int, cells: range, span: int) -> CacheView:
        """Cells of a chunk of a prompt, which sees a session's first cells.

        Args:
            cells: to write to; in one page.
            span: how many cells are seen, whole pages; some may have no page yet.
        """
        pages = self.pool.table(slot, span // PAGE_CELLS)
        seen = np.where(pages < 0, self.pool.pages, pages)
        return CacheView("chunk", (self.keys, self.values, *self._moved(self.pool.place(slot, cells), seen)))

    def listed(self, cells: Cells, order: Cells | None = None) -> CacheView:
        """Any cells, by their places in the cache.

        Args:
            cells: [rows], to write to.
            order: [span], the cells that all rows may see, in this order; None: the mask names them.
        """
        if order is None:
            return CacheView("listed", (self.keys, self.values, *self._moved(cells)))
        return CacheView("ordered", (self.keys, self.values, *self._moved(cells, order)))

    def read(self, slot: int, cells: range) -> tuple[Tensor, Tensor]:
        """Copies of keys and values, [cells, layers, kv_heads, dim]."""
        (places,) = self._moved(self.pool.place(slot, cells))
        return self.keys[:, places].transpose(0, 1), self.values[:, places].transpose(0, 1)

    def write(self, slot: int, cells: range, keys: Tensor, values: Tensor) -> None:
        """Overwrite cells; see `read`."""
        (places,) = self._moved(self.pool.place(slot, cells))
        self.keys[:, places], self.values[:, places] = keys.transpose(0, 1), values.transpose(0, 1)

    def move(self, places: Cells, to: Cells) -> None:
        """Copy cells to others, none of which is moved itself.

        Args:
            places, to: [cells], where they lie in the cache.
        """
        read, written = self._moved(places, to)
        for side in (self.keys, self.values):
            side[:, written] = side[:, read]

    def _moved(self, *numbers: Cells) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(each).to(self.keys.device) for each in numbers)


class Turn(Protocol):
    """Waits until a layer's cells may be seen: another thread's pass may still be writing earlier ones."""

    def take(self, layer: int) -> None:
        """Wait until all earlier cells of a layer are written, then announce that this pass has written its own."""


class PassCache(Cache):
    """The cells that one pass writes and sees, in the form of a transformers cache."""

    def __init__(self, view: CacheView, turn: Turn | None = None) -> None:
        super().__init__(layers=[])
        keys, values, self._written, *self._seen = view.tensors
        self._sides = keys.unbind(0), values.unbind(0)
        self._kind = view.kind
        self._turn = turn

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new cells and return those in view.

        Args:
            key_states, value_states: [1, kv_heads, rows, head_dim].

        Returns:
            Keys and values: [1, kv_heads, span, head_dim], or, if the mask lists cells, those of the whole layer,
            [cells, kv_heads, head_dim].
        """
        keys, values = (side[layer_idx] for side in self._sides)
        keys.index_copy_(0, self._written, key_states[0].transpose(0, 1))
        values.index_copy_(0, self._written, value_states[0].transpose(0, 1))
        if self._turn:
            self._turn.take(layer_idx)
        if self._kind == "listed":
            return keys, values
        return self._gather(keys), self._gather(values)

    def _gather(self, side: Tensor) -> Tensor:
        if self._kind == "chunk":
            side = side.unflatten(0, (-1, PAGE_CELLS)).index_select(0, self._seen[0]).flatten(0, 1)
        else:
            side = side.index_select(0, self._seen[0])
        return side.transpose(0, 1).unsqueeze(0)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: transformers does not need it, because positions and mask are always explicit."""
        return 0
