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


@given(slot=st.integers(0, 3), start=st.integers(0, 8), data=st.data())
def test_a_chunk_writes_its_cells_and_shows_its_span(slot: int, start: int, data: st.DataObject) -> None:
    cache, rows = small_cache(), 3
    span = data.draw(st.integers(start + rows, CELLS))
    shown = PassCache(cache.chunk(slot, range(start, start + rows), span))
    expected_keys, expected_values = cache.keys.clone(), cache.values.clone()
    for layer in range(LAYERS):
        keys, values = torch.randn(1, KV_HEADS, rows, 4), torch.randn(1, KV_HEADS, rows, 5)
        expected_keys[layer, slot, start : start + rows] = keys[0].transpose(0, 1)
        expected_values[layer, slot, start : start + rows] = values[0].transpose(0, 1)
        seen_keys, seen_values = shown.update(keys, values, layer)
        assert torch.equal(seen_keys[0].transpose(0, 1), expected_keys[layer, slot, :span])
        assert torch.equal(seen_values[0].transpose(0, 1), expected_values[layer, slot, :span])
    assert torch.equal(cache.keys, expected_keys)
    assert torch.equal(cache.values, expected_values)


@given(cells=st.lists(st.integers(0, 5 * CELLS - 1), min_size=1, max_size=8, unique=True), ordered=st.booleans())
def test_a_pass_writes_any_cells_and_sees_all_or_those_in_order(cells: list[int], ordered: bool) -> None:
    cache = small_cache()
    order = cells[::-1]
    shown = PassCache(cache.listed(torch.tensor(cells), torch.tensor(order) if ordered else None))
    for layer in range(LAYERS):
        keys, values = torch.randn(1, KV_HEADS, len(cells), 4), torch.randn(1, KV_HEADS, len(cells), 5)
        whole_keys, whole_values = cache.keys[layer].flatten(0, 1).clone(), cache.values[layer].flatten(0, 1).clone()
        whole_keys[cells], whole_values[cells] = keys[0].transpose(0, 1), values[0].transpose(0, 1)
        seen_keys, seen_values = shown.update(keys, values, layer)
        assert torch.equal(cache.keys[layer].flatten(0, 1), whole_keys)
        if ordered:
            seen_keys, seen_values = (side[0].transpose(0, 1) for side in (seen_keys, seen_values))
            whole_keys, whole_values = whole_keys[order], whole_values[order]
        assert torch.equal(seen_keys, whole_keys)
        assert torch.equal(seen_values, whole_values)
