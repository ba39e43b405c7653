"""A model without weights: the fake at the seam between the services and `Runner`.

Its logits are a function of the token prefix alone, and it remembers what stands in each cell.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from sybil_engine.core.noise import gumbel_noise
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import ModelDescription
from sybil_engine.models.pages import PagePool
from sybil_engine.models.rows import Rows, TreeRows
from sybil_engine.models.runner import PreparedTree
from sybil_engine.sampling.draw import draw_tokens
from sybil_engine.sampling.shaping import shape_logits

VOCABULARY_SIZE = 32
CONTEXT_TOKENS = 64
CHUNK_TOKENS = 8


class Model(Protocol):
    """Logits of the token after a prefix, [vocabulary]."""

    def __call__(self, prefix: Sequence[int], /) -> Tensor: ...


def target_model(prefix: Sequence[int]) -> Tensor:
    return _logits(prefix, stream=11)


def near_model(prefix: Sequence[int]) -> Tensor:
    """A drafter that is right more often than not."""
    return target_model(prefix) + 0.5 * _logits(prefix, stream=12)


def bad_model(prefix: Sequence[int]) -> Tensor:
    return -target_model(prefix)


def _logits(prefix: Sequence[int], stream: int) -> Tensor:
    return _cached_logits(tuple(prefix), stream)


@cache
def _cached_logits(prefix: tuple[int, ...], stream: int) -> Tensor:
    rng = random.Random(f"{stream} {prefix}")
    return torch.tensor([rng.gauss(0.0, 2.0) for _ in range(VOCABULARY_SIZE)])


def plain_tokens(opening: SessionOpen, model: Model = target_model, context_tokens: int = CONTEXT_TOKENS) -> list[int]:
    """What the target alone would say, token by token: everything up to the session's end, the prompt included."""
    tokens = list(opening.token_ids)
    end = min(opening.max_position or context_tokens, context_tokens)
    while len(tokens) < end and (len(tokens) == len(opening.token_ids) or tokens[-1] not in opening.stop_token_ids):
        shaped = shape_logits(model(tokens).unsqueeze(0), opening.sampling)
        noise = None if opening.sampling.greedy else gumbel_noise([opening.seed], [len(tokens)], VOCABULARY_SIZE)
        tokens.append(int(draw_tokens(shaped, noise)))
    return tokens


class FakeRunner:
    """A `Runner` that feeds rows to a model of prefixes.

    Attributes:
        chunks: every prefilled chunk, in order.
        batches: the rows of every decode pass, in order.
        tree_batches: the rows of every pass over trees, in order.
        watch: told of all rows before they are fed, with the tokens that stand in the cells before them.
        watch_tree: told a slot, and for each row of it the tokens that it sees, its own included.
    """

    def __init__(
        self, model: Model = target_model, slots: int = 4, max_rows: int = 24, pages: int | None = None
    ) -> None:
        self.device = torch.device("cpu")
        self.row_class = ()
        branch_start = CONTEXT_TOKENS + CHUNK_TOKENS
        cells = branch_start + 96
        self.pool = PagePool(pages or slots * cells // CHUNK_TOKENS, cells, slots, page_cells=CHUNK_TOKENS)
        self.max_rows = max_rows
        self.prefill_tokens = CHUNK_TOKENS
        self.context_tokens = CONTEXT_TOKENS
        self.model = model
        self.chunks: list[Rows] = []
        self.batches: list[list[Rows]] = []
        self.watch: Callable[[Rows, list[int]], None] = lambda rows, before: None
        self.broken: Exception | None = None
        self.alone: list[bool] = []
        self.watch_tree: Callable[[int, list[list[int]]], None] = lambda slot, paths: None
        self.tree_batches: list[list[TreeRows]] = []
        self.tree_cells = CONTEXT_TOKENS + 2 * CHUNK_TOKENS
        # What stands in each cell of the cache: a position and a token.
        self._memory: dict[int, tuple[int, int]] = {}
        self.branch_cells = range(branch_start, cells)
        self.moved: list[Rows] = []

    @property
    def slots_in_use(self) -> int:
        return self.pool.open_slots

    def prefill(self, chunk: Rows) -> None:
        assert len(chunk.token_ids) <= self.prefill_tokens
        self.chunks.append(chunk)
        self._write(chunk)
        self.pool.share(chunk.slot, chunk.position, chunk.token_ids)

    def forward(self, batch: Sequence[Rows], *, alone: bool = False) -> Tensor:
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        assert batch
        self.alone.append(alone)
        assert len({(rows.slot, rows.first_cell) for rows in batch}) == len(batch), "a cell is written once in a pass"
        self.batches.append(list(batch))
        logits = []
        for rows in batch:
            before = self._write(rows)
            prefixes = [before + list(rows.token_ids[: count + 1]) for count in range(len(rows.token_ids))]
            logits += [self.model(prefix) for prefix in prefixes]
        return torch.stack(logits)

    def prepare_tree(self, batch: Sequence[TreeRows]) -> PreparedTree:
        return PreparedTree(batch, tuple(len(rows.token_ids) for rows in batch))

    def forward_tree(self, prepared: PreparedTree) -> Tensor:
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        batch: Sequence[TreeRows] = prepared.inputs
        assert batch
        assert len({rows.slot for rows in batch}) == len(batch), "a session is in a pass once"
        self.tree_batches.append(list(batch))
        logits = []
        for rows in batch:
            assert len(set(rows.cells)) == len(rows.cells) == len(rows.token_ids) == len(rows.positions)
            self._fill(rows.slot, rows.cells, rows.positions, rows.token_ids)
            paths = []
            for path, position in zip(rows.paths, rows.positions, strict=True):
                paths.append(self._read(rows.slot, [*rows.trunk.tolist(), *path]))
                assert len(paths[-1]) == position + 1, "a path with gaps"
            self.watch_tree(rows.slot, paths)
            logits += [self.model(path) for path in paths]
        return torch.stack(logits)

    def padded(self, rows: int) -> int:
        return rows

    def padded_rows(self, batch: Sequence[Rows]) -> int:
        return sum(len(rows.token_ids) for rows in batch)

    def keep_branches(self, branches: Sequence[Rows]) -> None:
        for rows in branches:
            assert rows.first_cell is not None
            self.moved.append(rows)
            count = len(rows.token_ids)
            positions = range(rows.position, rows.position + count)
            kept = self._read(rows.slot, range(rows.first_cell, rows.first_cell + count), rows.position)
            assert kept == list(rows.token_ids), "a branch's cells hold what was fed into them"
            self._fill(rows.slot, positions, positions, kept)

    def _write(self, rows: Rows) -> list[int]:
        """Fill the cells of rows; returns the tokens that they see before them."""
        assert rows.token_ids
        count = len(rows.token_ids)
        assert rows.position + count <= self.context_tokens
        before = self._read(rows.slot, range(rows.position))
        self.watch(rows, before)
        first = rows.position if rows.first_cell is None else rows.first_cell
        if rows.first_cell is not None:
            assert first in self.branch_cells
            assert first + count - 1 in self.branch_cells
        positions = range(rows.position, rows.position + count)
        self._fill(rows.slot, range(first, first + count), positions, rows.token_ids)
        return before

    def _fill(self, slot: int, cells: Sequence[int], positions: Sequence[int], token_ids: Sequence[int]) -> None:
        assert all(0 <= token_id < VOCABULARY_SIZE for token_id in token_ids)
        self._memory |= zip(self.pool.place(slot, cells).tolist(), zip(positions, token_ids, strict=True), strict=True)

    def _read(self, slot: int, cells: Sequence[int], first_position: int = 0) -> list[int]:
        """The tokens in cells of a session, which must have been filled for consecutive positions."""
        held = [self._memory[place] for place in self.pool.place(slot, cells).tolist()]
        positions = [position for position, _ in held]
        assert positions == list(range(first_position, first_position + len(held))), "cells that nobody filled"
        return [token_id for _, token_id in held]


class FakeClock:
    """Time that passes when a test says so, in place of the module `time`."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def pass_s(self, delay_s: float) -> None:
        self.now_ns += int(delay_s * 1e9) + 1


def description(**changes: Any) -> ModelDescription:
    values: dict[str, Any] = {
        "model_id": "fake",
        "architecture": "Fake",
        "parameters": 0,
        "vocabulary_size": VOCABULARY_SIZE,
        "tokenizer_fingerprint": "",
        "tokenizer_parts": {},
        "end_token_ids": (),
        "begin_token_id": None,
        "context_tokens": CONTEXT_TOKENS,
        "dtype": "float32",
        "device": "cpu",
    }
    return ModelDescription(**{**values, **changes})
