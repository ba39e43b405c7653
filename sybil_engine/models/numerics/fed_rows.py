"""What a pass computed for a session's rows, logits and cells: kept, compared and restored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sybil_engine.models.cache import PagedCache
from sybil_engine.models.pages import PAGE_CELLS
from sybil_engine.models.rows import Rows

LEAST_PAGES = 4
"""The fewest pages of a cache, and of a session in the probe: enough for the largest pass after some text."""

# Of a session in the probe, however long the context is.
_MOST_CELLS = 1024


class ProbedRunner(Protocol):
    """What the probe needs of a model runner.

    Attributes:
        shares_passes: whether a pass may hold several sessions.
    """

    shares_passes: bool
    cache: PagedCache
    vocabulary_size: int
    context_tokens: int
    chunk_tokens: int

    def run(self, batch: Sequence[Rows], total: int) -> Tensor:
        """Run one pass of exactly this many rows; returns [total, vocabulary_size]."""


@dataclass(frozen=True, slots=True)
class FedRows:
    """One session's tokens, and what a pass computed for them.

    Attributes:
        computed: logits, [rows, vocabulary_size]; keys and values, [rows, layers, kv_heads, head_dim].
    """

    rows: Rows
    computed: tuple[Tensor, ...]

    @property
    def numbers_a_row(self) -> int:
        """How many numbers a pass computes for a row."""
        return sum(one.numel() for one in self.computed) // len(self.rows.token_ids)

    def part(self, offset: int, count: int) -> "FedRows":
        """`count` of the rows, from `offset` on."""
        computed = tuple(one.narrow(0, offset, count) for one in self.computed)
        return FedRows(self.rows.part(offset, count), computed)

    def agrees(self, other: "FedRows", rows: int) -> bool:
        """Whether the first `rows` rows agree in every bit of logits and cells."""
        pairs = zip(self.computed, other.computed, strict=True)
        return all(torch.equal(mine[:rows], theirs[:rows]) for mine, theirs in pairs)

    def put_back(self, cache: PagedCache) -> None:
        """Restore the cells in the cache."""
        cache.write(self.rows.slot, _cells(self.rows), *self.computed[1:])


@contextmanager
def probed_slots(runner: ProbedRunner, most: int) -> Iterator[tuple[list[int], int]]:
    """Slots for at most this many sessions, and how many cells each may fill; leaves all pages free."""
    pool = runner.cache.pool
    sessions = max(1, min(most, pool.sessions, pool.pages // LEAST_PAGES))
    slots = [pool.allocate() for _ in range(sessions)]
    try:
        yield slots, min(runner.context_tokens, pool.pages // sessions * PAGE_CELLS, _MOST_CELLS)
    finally:
        for slot in slots:
            pool.release(slot)


def scatter(runner: ProbedRunner, slot: int, position: int, rows: int, generator: torch.Generator) -> Rows:
    """Fill a slot's cells before `position` with random numbers, and draw tokens to feed from there."""
    reserved = runner.cache.pool.reserve(slot, range(position + rows))
    assert reserved, "the pool is too small for a probe"
    cache = runner.cache
    shapes = ((position, side.shape[0], *side.shape[2:]) for side in (cache.keys, cache.values))
    cells = (torch.randn(shape, generator=generator).to(cache.keys) for shape in shapes)
    cache.write(slot, range(position), *cells)
    token_ids = torch.randint(0, runner.vocabulary_size, (rows,), generator=generator)
    return Rows(slot, position, tuple(token_ids.tolist()))


def feed_rows(runner: ProbedRunner, batch: Sequence[Rows], total: int) -> list[FedRows]:
    """Run one pass of exactly this many rows, and keep what it computed for each session."""
    logits = runner.run(batch, total)
    fed = []
    start = 0
    for rows in batch:
        end = start + len(rows.token_ids)
        fed.append(FedRows(rows, (logits[start:end].clone(), *runner.cache.read(rows.slot, _cells(rows)))))
        start = end
    return fed


def _cells(rows: Rows) -> range:
    return range(rows.position, rows.position + len(rows.token_ids))
