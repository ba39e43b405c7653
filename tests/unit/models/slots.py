"""Slots with all their cells reserved, and caches, for tests that feed a runner by hand."""

import torch

from sybil_engine.models.cache import CellShape, PagedCache
from sybil_engine.models.pages import PAGE_CELLS, PagePool
from sybil_engine.models.runner import Runner


def open_slot(runner: Runner) -> int:
    """A slot of a runner, with a page for every cell."""
    slot = runner.pool.allocate()
    assert runner.pool.reserve(slot, range(runner.tree_cells))
    return slot


def paged_cache(shape: CellShape, *, sessions: int, cells: int) -> PagedCache:
    """A cache that holds all cells of all sessions."""
    pool = PagePool(sessions * -(-cells // PAGE_CELLS), cells, sessions)
    return PagedCache(shape, pool, dtype=torch.float32)
