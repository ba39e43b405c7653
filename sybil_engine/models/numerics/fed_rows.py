"""What a pass computed for a session's rows, logits and cells: kept, compared and restored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sybil_engine.models.cache import SlottedCache
from sybil_engine.models.rows import Rows


class ProbedRunner(Protocol):
    """What the probe needs of a model runner.

    Attributes:
        shares_passes: whether a pass may hold several sessions.
    """

    shares_passes: bool
    cache: SlottedCache
    vocabulary_size: int
    context_tokens: int
    chunk_tokens: int

    def prefill(self, prompt: Rows) -> None:
        """Feed a part of a prompt."""

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

    def put_back(self, cache: SlottedCache) -> None:
        """Restore the cells in the cache."""
        cells = slice(self.rows.position, self.rows.position + len(self.rows.token_ids))
        for side, fed in zip((cache.keys, cache.values), self.computed[1:], strict=True):
            side[:, self.rows.slot, cells] = fed.transpose(0, 1)


def scatter(runner: ProbedRunner, slot: int, position: int, rows: int, generator: torch.Generator) -> Rows:
    """Fill a slot's cells before `position` with random numbers, and draw tokens to feed from there."""
    for side in (runner.cache.keys, runner.cache.values):
        cells = side[:, slot, :position]
        cells.copy_(torch.randn(cells.shape, generator=generator))
    token_ids = torch.randint(0, runner.vocabulary_size, (rows,), generator=generator)
    return Rows(slot, position, tuple(token_ids.tolist()))


def feed_rows(runner: ProbedRunner, batch: Sequence[Rows], total: int) -> list[FedRows]:
    """Run one pass of exactly this many rows, and keep what it computed for each session."""
    logits = runner.run(batch, total)
    fed = []
    start = 0
    for rows in batch:
        end = start + len(rows.token_ids)
        cells = slice(rows.position, rows.position + len(rows.token_ids))
        sides = (side[:, rows.slot, cells].transpose(0, 1) for side in (runner.cache.keys, runner.cache.values))
        computed = (logits[start:end], *sides)
        fed.append(FedRows(rows, tuple(one.clone() for one in computed)))
        start = end
    return fed
