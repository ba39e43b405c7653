"""The KV cache of many sessions: a slot each, and in it a cell for each fed token.

Forgetting is moving an integer: the caller says which cells a pass writes and how many it may see, and what lies
beyond is overwritten before it is seen again. The cache itself remembers only which slots are taken.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from sybil_engine.errors import Exhausted


@dataclass(frozen=True, slots=True)
class CellShape:
    """What one token leaves behind in each layer."""

    layers: int
    kv_heads: int
    key_dim: int
    value_dim: int


class SlottedCache(Cache):
    """Keys and values as [layers, slots + 1, kv_heads, cells, head_dim]; the last slot is scratch for padding.

    It holds zeros until written, so that a masked cell is always a finite number.
    """

    def __init__(
        self, shape: CellShape, *, slots: int, cells: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self.cells = cells
        self.scratch_slot = slots
        axes = (shape.layers, slots + 1, shape.kv_heads, cells)
        self.keys = torch.zeros(*axes, shape.key_dim, dtype=dtype, device=device)
        self.values = torch.zeros(*axes, shape.value_dim, dtype=dtype, device=device)
        self._free = list(range(slots))
        self._view: _View | None = None

    @property
    def slots_in_use(self) -> int:
        return self.slots - len(self._free)

    def allocate(self) -> int:
        """Take the lowest free slot, so that busy slots stay neighbours.

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

    def look_at(self, slots: Sequence[int], cells: Tensor | range, span: int, order: Tensor | None = None) -> None:
        """Aim the next forward pass: which cells it writes and which it sees.

        Args:
            slots: one a session of the pass.
            cells: [sessions, rows] int64, or for a single session the range of its cells.
            span: the pass sees the first `span` cells of each slot.
            order: [sessions, span] int64, the cells it sees instead, in this order.
        """
        if order is not None:
            assert isinstance(cells, Tensor)
            slot_index = torch.tensor(slots, device=self.keys.device).unsqueeze(1)
            sides = self.keys.unbind(0), self.values.unbind(0)
            self._view = _View(*sides, None, *sides, (slot_index, cells), order)
            return
        first, sessions = slots[0], len(slots)
        if all(slot == first + place for place, slot in enumerate(slots)):
            window = slice(first, first + sessions)
            visible_keys = self.keys[:, window, :, :span].unbind(0)
            visible_values = self.values[:, window, :, :span].unbind(0)
            gather = None
        else:
            visible_keys = self.keys[:, :, :, :span].unbind(0)
            visible_values = self.values[:, :, :, :span].unbind(0)
            gather = torch.tensor(slots, device=self.keys.device)
        if isinstance(cells, range):
            written = slice(cells.start, cells.stop)
            written_keys = self.keys[:, first : first + 1, :, written].unbind(0)
            written_values = self.values[:, first : first + 1, :, written].unbind(0)
            where = None
        else:
            written_keys, written_values = self.keys.unbind(0), self.values.unbind(0)
            where = (torch.tensor(slots, device=self.keys.device).unsqueeze(1), cells)
        self._view = _View(visible_keys, visible_values, gather, written_keys, written_values, where)

    def move(self, slot: int, start: int, to: int, count: int) -> None:
        """Copy cells of a slot to another place in it that they do not overlap."""
        for side in (self.keys, self.values):
            side[:, slot, :, to : to + count] = side[:, slot, :, start : start + count]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new cells and return the cells in view.

        Args:
            key_states, value_states: [sessions, kv_heads, rows, head_dim].

        Returns:
            Keys and values, each [sessions, kv_heads, span, head_dim].
        """
        view = self._view
        assert view is not None, "look_at comes before a forward pass"
        if view.where is None:
            view.written_keys[layer_idx].copy_(key_states)
            view.written_values[layer_idx].copy_(value_states)
        else:
            slots, cells = view.where
            view.written_keys[layer_idx][slots, :, cells] = key_states.transpose(1, 2)
            view.written_values[layer_idx][slots, :, cells] = value_states.transpose(1, 2)
        if view.order is not None:
            assert view.where is not None
            slots, _ = view.where
            return (
                view.visible_keys[layer_idx][slots, :, view.order].transpose(1, 2),
                view.visible_values[layer_idx][slots, :, view.order].transpose(1, 2),
            )
        if view.gather is None:
            return view.visible_keys[layer_idx], view.visible_values[layer_idx]
        return (
            view.visible_keys[layer_idx].index_select(0, view.gather),
            view.visible_values[layer_idx].index_select(0, view.gather),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nothing for transformers to count: positions and mask are always explicit."""
        return 0


@dataclass(frozen=True, slots=True)
class _View:
    """What one pass writes and sees, layer by layer; `gather` and `where` are None when plain views do."""

    visible_keys: tuple[Tensor, ...]
    visible_values: tuple[Tensor, ...]
    gather: Tensor | None
    written_keys: tuple[Tensor, ...]
    written_values: tuple[Tensor, ...]
    where: tuple[Tensor, Tensor] | None
    order: Tensor | None = None
