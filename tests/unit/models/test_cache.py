"""Slots are taken and given back; a pass writes its own cells and no others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sybil_engine.core.errors import Exhausted
from sybil_engine.models.cache import CellShape, PassCache, SlottedCache

LAYERS, KV_HEADS, CELLS = 2, 3, 12


def small_cache(slots: int = 4) -> SlottedCache:
    return SlottedCache(CellShape(LAYERS, KV_HEADS, 4, 5), slots=slots, cells=CELLS, dtype=torch.float32)


def test_the_lowest_free_slot_is_taken_first() -> None:
    cache = small_cache()
    assert [cache.allocate() for _ in range(4)] == [0, 1, 2, 3]
    cache.release(2)
    cache.release(1)
    assert [cache.allocate(), cache.allocate()] == [1, 2]


def test_a_full_cache_says_so_and_recovers() -> None:
    cache = small_cache(slots=1)
    slot = cache.allocate()
    with pytest.raises(Exhausted, match="all 1 slots"):
        cache.allocate()
    cache.release(slot)
    assert cache.allocate() == slot


@pytest.mark.parametrize("slot", [-1, 0, 4])
def test_a_slot_that_is_not_taken_cannot_be_released(slot: int) -> None:
    with pytest.raises(ValueError, match="not taken"):
        small_cache().release(slot)


@given(
    slots=st.permutations(range(4)),
    sessions=st.integers(1, 4),
    starts=st.lists(st.integers(0, 8), min_size=4),
)
def test_a_pass_writes_its_cells_and_shows_its_span(slots: list[int], sessions: int, starts: list[int]) -> None:
    cache, rows, span = small_cache(), 3, 11
    taken = slots[:sessions]
    first = torch.tensor(starts[:sessions]).unsqueeze(1)
    cells = first + torch.arange(rows)
    view = cache.view(taken, cells if sessions > 1 else range(starts[0], starts[0] + rows), span)
    shown = PassCache(view)
    expected_keys, expected_values = cache.keys.clone(), cache.values.clone()
    for layer in range(LAYERS):
        keys, values = torch.randn(sessions, KV_HEADS, rows, 4), torch.randn(sessions, KV_HEADS, rows, 5)
        for place, slot in enumerate(taken):
            expected_keys[layer, slot][:, cells[place]] = keys[place]
            expected_values[layer, slot][:, cells[place]] = values[place]
        seen_keys, seen_values = shown.update(keys, values, layer)
        assert torch.equal(seen_keys, expected_keys[layer, taken, :, :span])
        assert torch.equal(seen_values, expected_values[layer, taken, :, :span])
    assert torch.equal(cache.keys, expected_keys)
    assert torch.equal(cache.values, expected_values)
