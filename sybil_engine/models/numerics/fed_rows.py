"""What a pass computed for a session's rows, logits and cells: kept, compared and restored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sybil_engine.models.cache import SlottedCache
from sybil_engine.models.rows import Rows, Shape


class ProbedRunner(Protocol):
    """What the probe needs of a model runner."""

    cache: SlottedCache
    vocabulary_size: int
    context_tokens: int
    chunk_tokens: int

    def run(self, batch: Sequence[Rows], shape: Shape) -> Tensor:
        """Run one pass of exactly this shape; returns [sessions, rows, vocabulary_size]."""


@dataclass(frozen=True, slots=True)
class FedRows:
    """One session's tokens, and what a pass computed for them.

    Attributes:
        logits: [rows, vocabulary_size].
        keys, values: [layers, kv_heads, rows, head_dim].
    """

    rows: Rows
    logits: Tensor
    keys: Tensor
    values: Tensor

    @property
    def numbers_a_row(self) -> int:
        """How many numbers a pass computes for a row."""
        return (self.logits.numel() + self.keys.numel() + self.values.numel()) // len(self.logits)

    def part(self, offset: int, count: int) -> "FedRows":
        """`count` of the rows, from `offset` on."""
        own = slice(offset, offset + count)
        return FedRows(self.rows.part(offset, count), self.logits[own], self.keys[:, :, own], self.values[:, :, own])

    def agrees(self, other: "FedRows", rows: int) -> bool:
        """Whether the first `rows` rows agree in every bit of logits and cells."""
        return (
            torch.equal(self.logits[:rows], other.logits[:rows])
            and torch.equal(self.keys[:, :, :rows], other.keys[:, :, :rows])
            and torch.equal(self.values[:, :, :rows], other.values[:, :, :rows])
        )

    def put_back(self, cache: SlottedCache) -> None:
        """Restore the cells in the cache."""
        cells = slice(self.rows.position, self.rows.position + len(self.rows.token_ids))
        cache.keys[:, self.rows.slot, :, cells] = self.keys
        cache.values[:, self.rows.slot, :, cells] = self.values


def scatter(runner: ProbedRunner, slot: int, position: int, rows: int, generator: torch.Generator) -> Rows:
    """Fill a slot's cells before `position` with random numbers, and draw tokens to feed from there."""
    for side in (runner.cache.keys, runner.cache.values):
        cells = side[:, slot, :, :position]
        cells.copy_(torch.randn(cells.shape, generator=generator))
    token_ids = torch.randint(0, runner.vocabulary_size, (rows,), generator=generator)
    return Rows(slot, position, tuple(token_ids.tolist()))


def feed_rows(runner: ProbedRunner, batch: Sequence[Rows], shape: Shape) -> list[FedRows]:
    """Run one pass of exactly this shape, and keep what it computed for each session."""
    logits = runner.run(batch, shape)
    fed = []
    for place, rows in enumerate(batch):
        cells = slice(rows.position, rows.position + len(rows.token_ids))
        keys, values = (side[:, rows.slot, :, cells].clone() for side in (runner.cache.keys, runner.cache.values))
        fed.append(FedRows(rows, logits[place, : len(rows.token_ids)].clone(), keys, values))
    return fed
