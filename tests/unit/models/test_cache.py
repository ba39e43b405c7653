"""A pass writes its own cells and no others, and sees those that it names."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sybil_engine.models.cache import CellShape, PagedCache, PassCache
from sybil_engine.models.pages import PAGE_CELLS
from tests.unit.models.slots import paged_cache

LAYERS, KV_HEADS, PAGES = 2, 3, 3
CELLS = PAGES * PAGE_CELLS


def small_cache() -> PagedCache:
    return paged_cache(CellShape(LAYERS, KV_HEADS, 4, 5), sessions=3, cells=CELLS)


def interleaved(cache: PagedCache) -> int:
    """A slot whose pages lie apart from one another."""
    slot, other = cache.pool.allocate(), cache.pool.allocate()
    for page in range(PAGES):
        for each in (slot, other):
            assert cache.pool.reserve(each, range(page * PAGE_CELLS, (page + 1) * PAGE_CELLS))
    return slot


@given(start=st.integers(0, CELLS - 3), data=st.data())
def test_a_chunk_writes_its_cells_and_shows_its_span(start: int, data: st.DataObject) -> None:
    cache, rows = small_cache(), 3
    slot = interleaved(cache)
    span = data.draw(st.integers(-(-(start + rows) // PAGE_CELLS), PAGES)) * PAGE_CELLS
    places = cache.pool.place(slot, range(CELLS))
    shown = PassCache(cache.chunk(slot, range(start, start + rows), span))
    expected_keys, expected_values = cache.keys.clone(), cache.values.clone()
    for layer in range(LAYERS):
        keys, values = torch.randn(1, KV_HEADS, rows, 4), torch.randn(1, KV_HEADS, rows, 5)
        expected_keys[layer, places[start : start + rows]] = keys[0].transpose(0, 1)
        expected_values[layer, places[start : start + rows]] = values[0].transpose(0, 1)
        seen_keys, seen_values = shown.update(keys, values, layer)
        assert torch.equal(seen_keys[0].transpose(0, 1), expected_keys[layer, places[:span]])
        assert torch.equal(seen_values[0].transpose(0, 1), expected_values[layer, places[:span]])
    assert torch.equal(cache.keys, expected_keys)
    assert torch.equal(cache.values, expected_values)


@given(cells=st.lists(st.integers(0, CELLS - 1), min_size=1, max_size=8, unique=True), ordered=st.booleans())
def test_a_pass_writes_any_cells_and_sees_all_or_those_in_order(cells: list[int], ordered: bool) -> None:
    cache = small_cache()
    order = cells[::-1]
    shown = PassCache(cache.listed(np.array(cells), np.array(order) if ordered else None))
    for layer in range(LAYERS):
        keys, values = torch.randn(1, KV_HEADS, len(cells), 4), torch.randn(1, KV_HEADS, len(cells), 5)
        whole_keys, whole_values = cache.keys[layer].clone(), cache.values[layer].clone()
        whole_keys[cells], whole_values[cells] = keys[0].transpose(0, 1), values[0].transpose(0, 1)
        seen_keys, seen_values = shown.update(keys, values, layer)
        assert torch.equal(cache.keys[layer], whole_keys)
        if ordered:
            seen_keys, seen_values = (side[0].transpose(0, 1) for side in (seen_keys, seen_values))
            whole_keys, whole_values = whole_keys[order], whole_values[order]
        assert torch.equal(seen_keys, whole_keys)
        assert torch.equal(seen_values, whole_values)


@pytest.mark.parametrize(("start", "to"), [(0, 70), (100, 3)])
def test_moved_cells_hold_what_was_there(start: int, to: int) -> None:
    cache, count = small_cache(), 30
    slot = interleaved(cache)
    cache.keys.normal_()
    cache.values.normal_()
    moved = cache.read(slot, range(start, start + count))
    cache.move(*(cache.pool.place(slot, range(first, first + count)) for first in (start, to)))
    for before, after in zip(moved, cache.read(slot, range(to, to + count)), strict=True):
        assert torch.equal(before, after)
