"""The ragged forward pass: rows of many sessions through one model, over a paged cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sybil_engine.core.errors import ContextExceeded, InexactDevice, InvalidSettings
from sybil_engine.models import attention
from sybil_engine.models.cache import CellShape, PagedCache, Turn
from sybil_engine.models.kernels.wavefront import Wavefront
from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.numerics.fed_rows import LEAST_PAGES, probed_slots
from sybil_engine.models.numerics.probe import TOTALS, probe
from sybil_engine.models.numerics.products import products_of
from sybil_engine.models.numerics.row_class import AnyRows, RowClass
from sybil_engine.models.numerics.threads import threads_agree, threads_set
from sybil_engine.models.pages import PAGE_CELLS, Cells, PagePool
from sybil_engine.models.passes.eager import EagerPasses
from sybil_engine.models.passes.execution import Execution, feed
from sybil_engine.models.passes.traced import TracedPasses
from sybil_engine.models.preparation import Preparation, whole_spans
from sybil_engine.models.rows import Rows, TreeRows, count_rows, pack
from sybil_engine.models.runner import PreparedTree
from sybil_engine.models.trial import compare_with_plain_pass, plain_pass

Numerics = Literal["exact", "fast"]
_CHUNK_STEP = 16


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """How a model is run.

    Attributes:
        max_sessions: at the same time.
        context_tokens: a shorter context than the model's, None for the whole.
        chunk_tokens: the most tokens of one pass of a prompt.
        keep_total: see `probe`.
        branch_cells: cells of a slot beyond its context, for the tokens of branches.
        traced: on a processor, replay passes instead of running their Python each time, see `passes.traced`.
        prefill_lanes: chunks of a prompt that are fed at the same time, each on a thread of its own.
        most_rows: that a session has in any pass.
        alone_threads: processor threads of a pass while no drafter works, if its bits stay the same; 0: as many as at
            any time.
        cache_bytes: of all keys and values; None: as much as all sessions can ever need.
    """

    max_sessions: int = 8
    context_tokens: int | None = None
    chunk_tokens: int = PAGE_CELLS
    numerics: Numerics = "exact"
    keep_total: int | None = None
    branch_cells: int = 0
    traced: bool = True
    prefill_lanes: int = 1
    most_rows: int = TOTALS[-1]
    alone_threads: int = 0
    cache_bytes: int | None = None


class ModelRunner:
    """One model, its cache, and the passes over both; see `Runner`.

    Attributes:
        cache: the pages of its sessions, and what lies in their cells.
        vocabulary_size: logits of a row.
        chunk_tokens: the most tokens of one pass of a prompt.
    """

    def __init__(self, loaded: LoadedModel, options: RunnerOptions) -> None:
        """Allocate the cache and, in exact mode, probe which pass shapes agree.

        Raises:
            InexactDevice: exact mode, and no two shapes agree.
            InvalidSettings: the cache does not fit into memory.
            UnsupportedModel: the model does not compute over a paged cache what it computes without one.
        """
        self.device = loaded.model.device
        longest = loaded.description.context_tokens
        self.vocabulary_size = loaded.description.vocabulary_size
        self.context_tokens = min(options.context_tokens or longest, longest)
        self.chunk_tokens = options.chunk_tokens
        self.prefill_tokens = options.prefill_lanes * options.chunk_tokens
        cell_shape, plain_logits = plain_pass(loaded)
        # Near the context's end the padding of a chunk is written beyond it.
        self._branch_start = whole_spans(self.context_tokens + self.chunk_tokens)
        self._branch_cells = options.branch_cells
        self.cache = self._open_cache(options, cell_shape, loaded.model.dtype)
        heads = int(loaded.model.config.get_text_config(decoder=True).num_attention_heads)
        groups = heads // cell_shape.kv_heads
        self.shares_passes = loaded.attention == attention.IMPLEMENTATION
        self._preparation = Preparation(self.cache, self.context_tokens, groups, listed=self.shares_passes)
        self._base_model = loaded.model.base_model
        self._wavefront = Wavefront(options.prefill_lanes, cell_shape.layers)
        self._exact_threads = torch.get_num_threads() if options.numerics == "exact" else None
        self._alone_threads = torch.get_num_threads()
        # Probed without traces, which make the same calls.
        self._execution: Execution = EagerPasses(loaded.model)
        compare_with_plain_pass(self, plain_logits, loaded.description)
        self._rows: RowClass | AnyRows = AnyRows(TOTALS[-1])
        if options.numerics == "exact":
            # Several sessions fill larger passes than one does.
            most_rows = options.most_rows if options.max_sessions == 1 else TOTALS[-1]
            self._rows = probe(self, products_of(loaded.model), options.keep_total, most_rows)
        alone_threads = options.alone_threads or self._alone_threads
        if isinstance(self._rows, AnyRows) or threads_agree(self, self._rows, alone_threads):
            self._alone_threads = alone_threads
        if options.traced and self.shares_passes and self.device.type == "cpu":
            self._execution = TracedPasses(loaded.model)
        # The first pass is the one that is traced.
        with probed_slots(self, 1) as ((slot,), _):
            self.pool.reserve(slot, range(PAGE_CELLS))
            self.run([Rows(slot, 0, (0,) * self._rows.padded(2))], self._rows.padded(2))

    def _open_cache(self, options: RunnerOptions, shape: CellShape, dtype: torch.dtype) -> PagedCache:
        cells, page_bytes = self._branch_start + options.branch_cells, shape.page_bytes(dtype)
        of_session = -(-cells // PAGE_CELLS)
        pages, least = options.max_sessions * of_session, min(LEAST_PAGES, of_session)
        if options.cache_bytes is not None:
            # One is for padding.
            pages = min(pages, options.cache_bytes // page_bytes - 1)
        if pages < least:
            raise InvalidSettings(
                f"a KV cache of {options.cache_bytes} bytes holds {max(0, pages)} pages of {PAGE_CELLS} tokens, and "
                f"{least} are needed; give at least {(least + 1) * page_bytes} bytes with --cache-memory"
            )
        try:
            return PagedCache(shape, PagePool(pages, cells, options.max_sessions), dtype=dtype, device=self.device)
        except RuntimeError as error:
            raise InvalidSettings(
                f"the memory does not hold a KV cache of {pages * page_bytes / 1e9:.1f} GB; lower --cache-memory, or "
                "--max-sessions or --context-tokens"
            ) from error

    @property
    def pool(self) -> PagePool:
        """See `Runner.pool`."""
        return self.cache.pool

    @property
    def row_class(self) -> tuple[int, ...]:
        """See `Runner.row_class`."""
        return self._rows.totals

    @property
    def max_rows(self) -> int:
        """See `Runner.max_rows`."""
        return self._rows.most_rows

    @property
    def branch_cells(self) -> range:
        """See `Runner.branch_cells`; no position's padding lies there either."""
        return range(self._branch_start, self._branch_start + self._branch_cells)

    @property
    def tree_cells(self) -> int:
        """See `Runner.tree_cells`."""
        return self._branch_start + self._branch_cells

    def keep_branches(self, branches: Sequence[Rows]) -> None:
        """See `Runner.keep_branches`."""
        moved, to = zip(*(self._branch_places(rows) for rows in branches), strict=True)
        self.cache.move(np.concatenate(moved), np.concatenate(to))

    def _branch_places(self, branch: Rows) -> tuple[Cells, Cells]:
        """Where the cells of a branch lie, and those of its positions."""
        assert branch.first_cell is not None, "the rows of a trunk are in place"
        tokens = len(branch.token_ids)
        starts = branch.first_cell, branch.position
        moved, to = (self.pool.place(branch.slot, range(start, start + tokens)) for start in starts)
        return moved, to

    def forward(self, batch: Sequence[Rows], *, alone: bool = False) -> Tensor:
        """See `Runner.forward`."""
        self._check(batch)
        if not alone:
            return self._forward(batch)
        with threads_set(self._alone_threads):
            return self._forward(batch)

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Rows]) -> Tensor:
        passes = self._pack(batch)
        logits = [
            self.run(members, self._rows.padded(count_rows(members)))[: count_rows(members)] for members in passes
        ]
        return _joined(logits)

    @torch.inference_mode()
    def run(self, batch: Sequence[Rows], total: int) -> Tensor:
        """Make one pass of exactly this many rows, padded after those of the batch.

        Returns:
            [total, vocabulary_size], in the model's dtype.
        """
        return self._execution.logits(self._preparation.rows(batch, total))[0]

    @torch.inference_mode()
    def prepare_tree(self, batch: Sequence[TreeRows]) -> PreparedTree:
        """See `Runner.prepare_tree`. In exact mode passes have the class's row counts."""
        passes = [batch] if self.shares_passes else [[member] for member in batch]
        row_counts = tuple(count_rows(members) for members in passes)
        inputs = [
            self._preparation.rows(members, self._rows.padded(rows))
            for members, rows in zip(passes, row_counts, strict=True)
        ]
        return PreparedTree(inputs, row_counts)

    @torch.inference_mode()
    def forward_tree(self, prepared: PreparedTree) -> Tensor:
        """See `Runner.forward_tree`."""
        logits = [
            self._execution.logits(inputs)[0, :rows]
            for inputs, rows in zip(prepared.inputs, prepared.row_counts, strict=True)
        ]
        return _joined(logits)

    def prefill(self, prompt: Rows) -> None:
        """See `Runner.prefill`. A chunk's shape depends on its length alone."""
        if len(prompt.token_ids) > self.prefill_tokens:
            raise ValueError(
                f"{len(prompt.token_ids)} tokens at once; feed prompts in parts of {self.prefill_tokens} or fewer"
            )
        self._check([prompt])
        self._wavefront.feed(prompt.cut(self.chunk_tokens), self._feed_chunk)
        self.pool.share(prompt.slot, prompt.position, prompt.token_ids)

    @torch.inference_mode()
    def _feed_chunk(self, chunk: Rows, turn: Turn) -> None:
        padded = min(-(-len(chunk.token_ids) // _CHUNK_STEP) * _CHUNK_STEP, self.chunk_tokens)
        feed(self._base_model, self._preparation.chunk(chunk, padded), turn)

    def padded(self, rows: int) -> int:
        """See `Runner.padded`."""
        whole, rest = divmod(rows, self.max_rows)
        return whole * self.max_rows + (self._rows.padded(rest) if rest else 0)

    def padded_rows(self, batch: Sequence[Rows]) -> int:
        """See `Runner.padded_rows`."""
        return sum(self._rows.padded(count_rows(members)) for members in self._pack(batch))

    def _pack(self, batch: Sequence[Rows]) -> list[list[Rows]]:
        return pack(batch, self.max_rows, shared=self.shares_passes)

    def _check(self, batch: Sequence[Rows]) -> None:
        for rows in batch:
            if rows.position + len(rows.token_ids) > self.context_tokens:
                raise ContextExceeded(
                    f"{len(rows.token_ids)} tokens at position {rows.position} do not fit the context of "
                    f"{self.context_tokens} tokens"
                )
        if self._exact_threads and torch.get_num_threads() != self._exact_threads:
            raise InexactDevice(
                f"torch runs {torch.get_num_threads()} threads now and ran {self._exact_threads} when its pass shapes "
                "were probed; set the thread count before the model starts"
            )


def _joined(logits: Sequence[Tensor]) -> Tensor:
    """[total rows, vocabulary_size], float32, of the passes of one batch."""
    return (logits[0] if len(logits) == 1 else torch.cat(list(logits))).float()
