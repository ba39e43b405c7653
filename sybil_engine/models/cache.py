"""The KV cache of many sessions: one slot for each, with one cell for each fed token.

Forgetting tokens costs nothing: the caller says which cells a pass writes and how many it sees, and stale cells are
overwritten before they are seen again. The cache itself only records which slots are taken. A model gets a `PassCache`,
which lives for one pass.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import Cache

from sybil_engine.core.errors import Exhausted

ViewKind = Literal["plain", "scattered", "gathered", "ordered"]


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
        kind: `plain`: one session, adjacent cells; `scattered`: adjacent slots, any cells; `gathered`: any slots, any
            cells; `ordered`: any slots, whose cells are seen in a given order.
        tensors: keys and values to see; if they differ, keys and values to write to; then, unless plain, [sessions, 1]
            slots and [sessions, rows] cells to write to; if ordered, [sessions, span] cells to see.
    """

    kind: ViewKind
    tensors: tuple[Tensor, ...]


class SlottedCache:
    """Keys and values as [layers, slots + 1, kv_heads, cells, head_dim]; the last slot is scratch for padding.

    It holds zeros until written, so that a masked cell is always a finite number.
    """

    def __init__(
        self, shape: CellShape, *, slots: int, cells: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.slots = slots
        self.cells = cells
        self.scratch_slot = slots
        axes = (shape.layers, slots + 1, shape.kv_heads, cells)
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

    def view(self, slots: Sequence[int], cells: Tensor | range, span: int, order: Tensor | None = None) -> CacheView:
        """The cells that a pass writes and sees.

        Args:
            slots: one for each session of the pass.
            cells: [sessions, rows] int64, or the range of its cells for a single session.
            span: the pass sees the first `span` cells of each slot.
            order: [sessions, span] int64, the cells it sees instead, in this order.
        """
        keys, values = self.keys, self.values
        window = slice(slots[0], slots[0] + len(slots))
        if isinstance(cells, range):
            visible = keys[:, window, :, :span], values[:, window, :, :span]
            written = slice(cells.start, cells.stop)
            return CacheView("plain", (*visible, keys[:, window, :, written], values[:, window, :, written]))
        if order is None and all(slot == slots[0] + place for place, slot in enumerate(slots)):
            visible = keys[:, window, :, :span], values[:, window, :, :span]
            places = torch.arange(len(slots), device=keys.device).unsqueeze(1)
            return CacheView("scattered", (*visible, keys[:, window], values[:, window], places, cells))
        slot_index = torch.tensor(slots, device=keys.device).unsqueeze(1)
        if order is not None:
            return CacheView("ordered", (keys, values, slot_index, cells, order))
        visible = keys[:, :, :, :span], values[:, :, :, :span]
        return CacheView("gathered", (*visible, keys, values, slot_index, cells))

    def move(self, slot: int, start: int, to: int, count: int) -> None:
        """Copy cells of a slot to another place in it that they do not overlap."""
        for side in (self.keys, self.values):
            side[:, slot, :, to : to + count] = side[:, slot, :, start : start + count]


class Turn(Protocol):
    """Waits until a layer's cells may be seen: another thread's pass may still be writing earlier ones."""

    def take(self, layer: int) -> None:
        """Wait until all earlier cells of a layer are written, then announce that this pass has written its own."""


class PassCache(Cache):
    """The cells that one pass writes and sees, in the form of a transformers cache."""

    def __init__(self, view: CacheView, turn: Turn | None = None) -> None:
        super().__init__(layers=[])
        sides = 2 if view.kind == "ordered" else 4
        self._layers = [side.unbind(0) for side in view.tensors[:sides]]
        self._index = view.tensors[sides:]
        self._kind = view.kind
        self._turn = turn

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new cells and return the cells in view.

        Args:
            key_states, value_states: [sessions, kv_heads, rows, head_dim].

        Returns:
            Keys and values, each [sessions, kv_heads, span, head_dim].
        """
        keys, values, *written = (side[layer_idx] for side in self._layers)
        to_keys, to_values = written or (keys, values)
        if self._kind == "plain":
            to_keys.copy_(key_states)
            to_values.copy_(value_states)
            if self._turn:
                self._turn.take(layer_idx)
            return keys, values
        slots, cells, *order = self._index
        # `to_keys[slots, :, cells] = ...` would make sizes constants in a trace.
        to_keys.transpose(1, 2).index_put_((slots, cells), key_states.transpose(1, 2))
        to_values.transpose(1, 2).index_put_((slots, cells), value_states.transpose(1, 2))
        if self._kind == "ordered":
            return keys[slots, :, order[0]].transpose(1, 2), values[slots, :, order[0]].transpose(1, 2)
        if self._kind == "gathered":
            return keys.index_select(0, slots.squeeze(1)), values.index_select(0, slots.squeeze(1))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: transformers does not need it, because positions and mask are always explicit."""
        return 0
