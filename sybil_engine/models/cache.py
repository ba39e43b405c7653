"""The KV cache of many sessions: one slot for each, with one cell for each fed token.

Forgetting tokens costs nothing: the caller says which cells a pass writes and how many it sees, and stale cells are
overwritten before they are seen again. The cache itself only records which slots are taken. A model gets a `PassCache`,
which lives for one pass.
"""

import heapq
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import Cache

from sybil_engine.core.errors import Exhausted

ViewKind = Literal["chunk", "listed", "ordered"]


@dataclass(frozen=True, slots=True)
class CellShape:
    """What the cache holds for one token in each layer."""

    layers: int
    kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True, eq=False)
class CacheView:
    """The cells that one pass writes and sees.

    Attributes:
        kind: `chunk`: adjacent cells of one session, seen up to a span; `listed`: any cells of the whole cache, of which
            the attention mask names those that each row sees; `ordered`: any cells, seen in a given order.
        tensors: of a chunk, keys and values to see, then keys and values to write to. Else keys and values of the whole
            cache, [layers, cells, kv_heads, dim], and [rows], the cells to write to; if ordered, [span], those to see.
    """

    kind: ViewKind
    tensors: tuple[Tensor, ...]


class SlottedCache:
    """Keys and values as [layers, slots + 1, cells, kv_heads, dim]; the last slot is scratch for padding.

    It holds zeros until written, so that a masked cell is always a finite number.
    """

    def __init__(
        self, shape: CellShape, *, slots: int, cells: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.slots = slots
        self.cells = cells
        self.scratch_slot = slots
        axes = (shape.layers, slots + 1, cells, shape.kv_heads)
        self.keys = torch.zeros(*axes, shape.key_dim, dtype=dtype, device=device)
        self.values = torch.zeros(*axes, shape.value_dim, dtype=dtype, device=device)
        self._free = list(range(slots))

    def allocate(self) -> int:
        """Take the lowest free slot, so that busy slots stay adjacent.

        Raises:
            Exhausted: every slot is taken.
        """
        if not self._free:
            raise Exhausted(f"all {self.slots} slots of the KV cache are taken; try again or raise the session limit")
        return heapq.heappop(self._free)

    def release(self, slot: int) -> None:
        """Give a slot back; its cells need no cleaning."""
        if not 0 <= slot < self.slots or slot in self._free:
            raise ValueError(f"slot {slot} is not taken; release each allocated slot once")
        heapq.heappush(self._free, slot)

    def chunk(self, slot: int, cells: range, span: int) -> CacheView:
        """A slot's first `span` cells, of which a pass writes some.

        Args:
            cells: to write to.
        """
        sides = [side[:, slot : slot + 1].transpose(2, 3) for side in (self.keys, self.values)]
        seen = [side[:, :, :, :span] for side in sides]
        written = [side[:, :, :, cells.start : cells.stop] for side in sides]
        return CacheView("chunk", (*seen, *written))

    def listed(self, cells: Tensor, order: Tensor | None = None) -> CacheView:
        """Any cells, by their numbers in the whole cache: `cells` of a slot follow those of the slot before it.

        Args:
            cells: [rows] int64, to write to.
            order: [span] int64, the cells that all rows may see, in this order; None: the mask names them.
        """
        whole = self.keys.flatten(1, 2), self.values.flatten(1, 2), cells
        return CacheView("listed", whole) if order is None else CacheView("ordered", (*whole, order))

    def move(self, slot: int, start: int, to: int, count: int) -> None:
        """Copy cells of a slot to another place in it that they do not overlap."""
        for side in (self.keys, self.values):
            side[:, slot, to : to + count] = side[:, slot, start : start + count]


class Turn(Protocol):
    """Waits until a layer's cells may be seen: another thread's pass may still be writing earlier ones."""

    def take(self, layer: int) -> None:
        """Wait until all earlier cells of a layer are written, then announce that this pass has written its own."""


class PassCache(Cache):
    """The cells that one pass writes and sees, in the form of a transformers cache."""

    def __init__(self, view: CacheView, turn: Turn | None = None) -> None:
        super().__init__(layers=[])
        sides = 4 if view.kind == "chunk" else 2
        self._layers = [side.unbind(0) for side in view.tensors[:sides]]
        self._cells = view.tensors[sides:]
        self._turn = turn

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new cells and return those in view.

        Args:
            key_states, value_states: [sessions, kv_heads, rows, head_dim].

        Returns:
            Keys and values: [1, kv_heads, span, head_dim], or, if the mask lists cells, those of the whole layer,
            [cells, kv_heads, head_dim].
        """
        keys, values, *written = (side[layer_idx] for side in self._layers)
        if written:
            for side, states in zip(written, (key_states, value_states), strict=True):
                side.copy_(states)
            if self._turn:
                self._turn.take(layer_idx)
            return keys, values
        cells, *order = self._cells
        keys.index_copy_(0, cells, key_states[0].transpose(0, 1))
        values.index_copy_(0, cells, value_states[0].transpose(0, 1))
        if not order:
            return keys, values
        ordered = (side.index_select(0, order[0]).transpose(0, 1).unsqueeze(0) for side in (keys, values))
        return next(ordered), next(ordered)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: transformers does not need it, because positions and mask are always explicit."""
        return 0
