"""The ragged forward pass: rows of many sessions through one model, over a slotted cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from sybil_engine.core.errors import ContextExceeded, InexactDevice, UnsupportedModel
from sybil_engine.core.types import ModelDescription
from sybil_engine.models import attention
from sybil_engine.models.cache import CacheView, CellShape, SlottedCache, Turn
from sybil_engine.models.kernels.int8 import QuantizedLinear
from sybil_engine.models.kernels.packed import PackedLinear
from sybil_engine.models.kernels.wavefront import Wavefront
from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.numerics.probe import Product, ShapeClass, probe
from sybil_engine.models.passes.execution import feed
from sybil_engine.models.passes.traced import TracedPasses
from sybil_engine.models.rows import Pass, Rows, Shape, TreeRows, pack

Numerics = Literal["exact", "fast"]
# Values are summed in tiles (`attention.TILE_CELLS`), so a sum is over a whole tile or half of one: MKL splits one over
# 192 cells on some processors, and a row's last bits would depend on how far its neighbours in a pass reach.
SPAN_CELLS = attention.TILE_CELLS // 2
DEFAULT_CHUNK_TOKENS = 64
_CHUNK_STEP = 16
# Traces beyond are made when they are first needed.
_WARM_TILES = 8
_TRIAL_TOKENS = (3, 1, 4, 1, 5, 9, 2, 6)
_TRIAL_TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.1, "int8": 0.1}


@dataclass(frozen=True, slots=True, eq=False)
class TreePass:
    """A pass over trees, ready to be made.

    Attributes:
        token_ids, positions: [sessions, rows], padding included.
        mask: see `feeding.feed`.
        view: the cells that it writes and sees.
        row_counts: of each session, without padding.
    """

    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    view: CacheView
    row_counts: tuple[int, ...]


class ModelRunner:
    """One model, its cache, and the passes over both. Belongs to one thread.

    A token's cell must be refilled as it was first filled: prompts by `prefill`, in the same chunks; generated tokens
    by `forward` or `fill`.

    Attributes:
        model: what the passes run.
        cache: allocate and release slots here.
        context_tokens: positions run from 0 to one below this.
        chunk_tokens: the most tokens of one pass of a prompt.
        prefill_tokens: the most tokens of one `prefill`.
        shape_class: in exact mode the pass shapes that agree bit for bit, None in fast mode.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_sessions: int = 8,
        context_tokens: int | None = None,
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
        numerics: Numerics = "exact",
        keep_total: int | None = None,
        branch_cells: int = 0,
        traced: bool = True,
        prefill_lanes: int = 1,
    ) -> None:
        """Allocate the cache and, in exact mode, probe which pass shapes agree.

        Args:
            max_sessions: slots of the cache.
            context_tokens: a shorter context than the model's, None for the whole.
            keep_total: see `numerics.probe`.
            traced: replay passes instead of running their Python each time, where that computes the same: on a
                processor, see `tracing`.
            branch_cells: cells of a slot beyond its context, for tokens that stand beside others.
            prefill_lanes: chunks of a prompt that are fed at the same time, each on a thread of its own.

        Raises:
            InexactDevice: exact mode, and no two shapes agree.
            UnsupportedModel: the model does not compute over a slotted cache what it computes without one.
        """
        self.model = loaded.model
        self._ours = loaded.attention == attention.IMPLEMENTATION
        self._device, self._dtype = loaded.model.device, loaded.model.dtype
        longest = loaded.description.context_tokens
        self.vocabulary_size = loaded.description.vocabulary_size
        self.context_tokens = min(context_tokens or longest, longest)
        self.chunk_tokens = chunk_tokens
        shape, plain_logits = _plain_pass(loaded)
        self._kv_heads = shape.kv_heads
        self._groups = int(loaded.model.config.get_text_config(decoder=True).num_attention_heads) // shape.kv_heads
        # A pass near the context's end writes its padding beyond it.
        self._padding_cells = chunk_tokens
        # One more, which padding rows of trees are written to.
        cells = _round_up(self.context_tokens + self._padding_cells + branch_cells + 1)
        self.cache = SlottedCache(shape, slots=max_sessions, cells=cells, dtype=self._dtype, device=self._device)
        self._wavefront = Wavefront(prefill_lanes, shape.layers)
        self.prefill_tokens = prefill_lanes * chunk_tokens
        self._cells = torch.arange(cells, device=self._device)
        self._positions = self._cells.clamp(max=self.context_tokens - 1)
        self._threads = torch.get_num_threads()
        self.numerics = numerics
        self.shape_class: ShapeClass | None = None
        # Traces make the same calls: what the probe finds without them holds with them.
        self._traced: TracedPasses | None = None
        self._compare(plain_logits, loaded.description)
        if numerics == "exact":
            self.shape_class = probe(self, keep_total)
        if traced and self._ours and self._device.type == "cpu":
            self._traced = TracedPasses(self.model, self._groups)
            self._warm_up()

    @property
    def row_class(self) -> tuple[int, ...]:
        """Row counts of a pass, over all its sessions, that agree bit for bit; empty in fast mode."""
        return self.shape_class.totals if self.shape_class else ()

    @property
    def max_rows(self) -> int:
        """The most rows of one session that fit a single pass; more are split over several."""
        return self.shape_class.most_rows if self.shape_class else self.chunk_tokens

    @property
    def branch_cells(self) -> range:
        """Cells of a slot that no position has, nor any position's padding, for tokens that stand beside others."""
        return range(self.context_tokens + self._padding_cells, self.cache.cells - 1)

    @property
    def tree_cells(self) -> int:
        """Cells of a slot that the rows of a tree may lie in."""
        return self.cache.cells - 1

    @property
    def products(self) -> list[Product]:
        """One matrix product of each kind and size that the model is made of."""
        found: dict[tuple[object, ...], Product] = {}
        for module in self.model.modules():
            if isinstance(module, nn.Linear | Conv1D | PackedLinear | QuantizedLinear):
                weight, bias = _weight_of(module)
                key = (type(module), weight.shape, weight.stride(), bias is None)
                found.setdefault(key, Product(module, weight, bias))
        return list(found.values())

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows]) -> Tensor:
        """Feed each session's rows and return the logits of every row, in batch order.

        Args:
            batch: not empty, each session at most once.

        Returns:
            [total rows, vocabulary_size], float32, on the model's device.

        Raises:
            ContextExceeded: a position beyond the context.
        """
        self._check(batch)
        passes = self._pack(batch)
        if len(batch) == len(passes) == 1:
            return self.run(batch, passes[0].shape)[0, : len(batch[0].token_ids)].float()
        total_rows = sum(len(rows.token_ids) for rows in batch)
        result = torch.empty(total_rows, self.vocabulary_size, dtype=torch.float32, device=self._device)
        for one in passes:
            logits = self.run([piece.rows for piece in one.pieces], one.shape)
            for place, piece in enumerate(one.pieces):
                rows = len(piece.rows.token_ids)
                result[piece.start : piece.start + rows] = logits[place, :rows]
        return result

    @torch.inference_mode()
    def prepare_tree(self, batch: Sequence[TreeRows]) -> TreePass:
        """Prepare the one pass that feeds rows that stand on branches, each seeing its own path.

        In exact mode a pass that fits the shape class has one of its shapes; agreement of bits is only claimed for
        rows whose cells lie in path order.

        Args:
            batch: not empty, each session at most once.
        """
        needed = (len(batch), max(len(member.token_ids) for member in batch))
        sessions, rows = self.fit(*needed) or needed
        span = _round_up(max(max(member.cells) for member in batch) + 1)
        token_ids = np.zeros((sessions, rows), dtype=np.int64)
        positions = np.zeros((sessions, rows), dtype=np.int64)
        cells = np.full((sessions, rows), self.cache.cells - 1, dtype=np.int64)
        hidden = np.zeros((sessions, rows, span), dtype=np.bool_)
        for place, member in enumerate(batch):
            count = len(member.token_ids)
            token_ids[place, :count] = member.token_ids
            positions[place, :count] = member.positions
            cells[place, :count] = member.cells
            # The slot's last cell, the padding's, is none that a tree may see.
            hidden[place, :count, -1] = True
            seen = member.visible[:, :span]
            hidden[place, :count, : seen.shape[1]] = ~seen
        slots = [member.slot for member in batch] + [self.cache.scratch_slot] * (sessions - len(batch))
        first = int(cells[0, 0])
        neighbours = sessions == 1 and bool((cells[0] == np.arange(first, first + rows)).all())
        view = self.cache.view(
            slots, range(first, first + rows) if neighbours else torch.from_numpy(cells).to(self._device), span
        )
        shared = {"groups": self._groups, "kv_heads": self._kv_heads} if self._ours else {"groups": 1, "kv_heads": 1}
        mask = attention.fold_mask(torch.from_numpy(hidden).to(self._device), dtype=self._dtype, **shared)
        return TreePass(
            torch.from_numpy(token_ids).to(self._device),
            torch.from_numpy(positions).to(self._device),
            mask if self._ours else mask[:, :, :rows],
            view,
            tuple(len(member.token_ids) for member in batch),
        )

    @torch.inference_mode()
    def forward_tree(self, prepared: TreePass) -> Tensor:
        """Make a prepared pass and return the logits of every row.

        Returns:
            [total rows, vocabulary_size], float32, in batch order.
        """
        logits = self._logits(prepared.token_ids, prepared.positions, prepared.mask, prepared.view)
        if len(prepared.row_counts) == 1:
            return logits[0, : prepared.row_counts[0]].float()
        return torch.cat([logits[place, :count] for place, count in enumerate(prepared.row_counts)]).float()

    def warm_up_trees(self, most_rows: int) -> None:
        """Make the traces of a single session's trees of up to so many rows, for all but very long contexts."""
        if not self._traced:
            return
        last = min(self.tree_cells - 2 * most_rows, _WARM_TILES * attention.TILE_CELLS)
        for start in range(0, last, attention.TILE_CELLS):
            for rows in (1, 2, most_rows):
                cells = tuple(range(start, start + 2 * rows, 2))
                visible = np.zeros((rows, self.cache.cells), dtype=np.bool_)
                visible[range(rows), cells] = True
                tree = TreeRows(self.cache.scratch_slot, (0,) * rows, (0,) * rows, cells, visible)
                self.forward_tree(self.prepare_tree([tree]))

    @torch.inference_mode()
    def fill(self, batch: Sequence[Rows]) -> None:
        """Feed rows as `forward` would, for their cells alone.

        Raises:
            ContextExceeded: a position beyond the context.
        """
        self._check(batch)
        for one in self._pack(batch):
            self._fill(*self._prepare([piece.rows for piece in one.pieces], one.shape))

    def prefill(self, prompt: Rows) -> None:
        """Feed a part of a prompt in chunks, each in a shape that depends on its length alone.

        Feed a prompt from position 0 in parts of `prefill_tokens`, the last one as it comes, and leave its last token
        to `forward`, which returns the logits of what follows.

        Raises:
            ContextExceeded: a position beyond the context.
        """
        if len(prompt.token_ids) > self.prefill_tokens:
            raise ValueError(
                f"{len(prompt.token_ids)} tokens at once; feed prompts in parts of {self.prefill_tokens} or fewer"
            )
        self._check([prompt])
        self._wavefront.feed([self._chunk(chunk) for chunk in prompt.cut(self.chunk_tokens)])

    def _chunk(self, chunk: Rows) -> Callable[[Turn], None]:
        """A chunk of a prompt, as what feeds it when it is its turn."""
        rows = min(-(-len(chunk.token_ids) // _CHUNK_STEP) * _CHUNK_STEP, self.chunk_tokens)

        def fill(turn: Turn) -> None:
            with torch.inference_mode():
                self._fill(*self._prepare([chunk], (1, rows)), turn)

        return fill

    @torch.inference_mode()
    def run(self, batch: Sequence[Rows], shape: Shape) -> Tensor:
        """Make one pass of exactly this shape, padded behind each session's rows and with scratch sessions.

        Returns:
            [sessions, rows, vocabulary_size] of the whole shape, in the model's dtype.
        """
        return self._logits(*self._prepare(batch, shape))

    def _logits(self, token_ids: Tensor, positions: Tensor, mask: Tensor, view: CacheView) -> Tensor:
        """Make the pass; [sessions, rows, vocabulary_size]."""
        if self._traced:
            return self._traced.logits(token_ids, positions, mask, view)
        logits: Tensor = feed(self.model, token_ids, positions, mask, view).logits
        return logits

    def _fill(
        self, token_ids: Tensor, positions: Tensor, mask: Tensor, view: CacheView, turn: Turn | None = None
    ) -> None:
        """Make the pass for its cells alone."""
        feed(self.model.base_model, token_ids, positions, mask, view, turn)

    def _prepare(self, batch: Sequence[Rows], shape: Shape) -> tuple[Tensor, Tensor, Tensor, CacheView]:
        """What a pass of this shape is fed: tokens, positions, mask, and which cells it writes and sees."""
        sessions, rows = shape
        span = _round_up(max(member.position for member in batch) + rows)
        branches = any(member.first_cell is not None for member in batch)
        if branches:
            empty = sessions - len(batch)
            starts = [member.position for member in batch] + [0] * empty
            first_cells = [member.position if member.first_cell is None else member.first_cell for member in batch]
            slots = [member.slot for member in batch] + [self.cache.scratch_slot] * empty
            cells = torch.tensor(starts, device=self._device).unsqueeze(1) + self._cells[:rows]
            written = torch.tensor(first_cells + [0] * empty, device=self._device).unsqueeze(1) + self._cells[:rows]
            order = self._cells[:span].repeat(sessions, 1).scatter_(1, cells, written)
            view = self.cache.view(slots, written, span, order)
        elif sessions == 1:
            (only,) = batch
            own = range(only.position, only.position + rows)
            cells = self._cells[own.start : own.stop].unsqueeze(0)
            view = self.cache.view((only.slot,), own, span)
        else:
            empty = sessions - len(batch)
            starts = [member.position for member in batch] + [0] * empty
            slots = [member.slot for member in batch] + [self.cache.scratch_slot] * empty
            cells = torch.tensor(starts, device=self._device).unsqueeze(1) + self._cells[:rows]
            view = self.cache.view(slots, cells, span)
        token_ids = [member.token_ids + (0,) * (rows - len(member.token_ids)) for member in batch]
        token_ids += [(0,) * rows] * (sessions - len(batch))
        return (
            torch.tensor(token_ids, device=self._device),
            self._positions[cells],
            self._mask(cells, span),
            view,
        )

    def _mask(self, cells: Tensor, span: int) -> Tensor:
        if self._ours:
            return attention.visibility(cells, span, groups=self._groups, kv_heads=self._kv_heads, dtype=self._dtype)
        rows = cells.shape[1]
        return attention.visibility(cells, span, groups=1, kv_heads=1, dtype=self._dtype)[:, :, :rows]

    def _compare(self, plain_logits: Tensor, description: ModelDescription) -> None:
        """Refuse a model that computes something else over a slotted cache: a part of it we do not know of."""
        tokens = tuple(token % self.vocabulary_size for token in _TRIAL_TOKENS)
        half = len(tokens) // 2
        scratch = self.cache.scratch_slot
        parts = [Rows(scratch, 0, tokens[:half]), Rows(scratch, half, tokens[half:])]
        logits = torch.cat([self.run([part], (1, len(part.token_ids)))[0] for part in parts]).float()
        error = float((logits - plain_logits).norm() / plain_logits.norm().clamp(min=1e-30))
        if not error < _TRIAL_TOLERANCE[description.dtype]:
            raise UnsupportedModel(
                f"{description.model_id} computes other logits over a slotted cache than without one (relative error "
                f"{error:.2g}); use another architecture, such as Llama, GPT-2 or Qwen2"
            )

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Make the traces of a single session's passes, few rows and many, near the start and farther on."""
        for position in (0, attention.TILE_CELLS):
            for rows in (1, min(attention.LEAST_FOLDED_ROWS, self.max_rows)):
                if position + rows > self.context_tokens:
                    continue
                trunk = Rows(self.cache.scratch_slot, position, (0,) * rows)
                self.run([trunk], self.fit(1, rows) or (1, rows))
                shape = self.fit(2, rows)
                if shape and len(self.branch_cells) >= shape[1]:
                    self.run([trunk, replace(trunk, first_cell=self.branch_cells.start)], shape)

    def fit(self, sessions: int, rows: int) -> Shape | None:
        """The shape of the one pass that would carry so many sessions of so many rows; None if it takes several."""
        return self.shape_class.fit(sessions, rows) if self.shape_class else (sessions, rows)

    def _pack(self, batch: Sequence[Rows]) -> list[Pass]:
        return pack(batch, self.max_rows, self.fit)

    def padded(self, rows: int) -> int:
        """The rows that a pass over so many rows of a single session computes."""
        shape = self.fit(1, rows)
        return shape[1] if shape else rows

    def padded_rows(self, batch: Sequence[Rows]) -> int:
        """The rows that `forward` computes for a batch, padding included."""
        return sum(sessions * rows for sessions, rows in (one.shape for one in self._pack(batch)))

    def _check(self, batch: Sequence[Rows]) -> None:
        for rows in batch:
            if rows.position + len(rows.token_ids) > self.context_tokens:
                raise ContextExceeded(
                    f"{len(rows.token_ids)} tokens at position {rows.position} do not fit the context of "
                    f"{self.context_tokens} tokens"
                )
        if self.numerics == "exact" and torch.get_num_threads() != self._threads:
            raise InexactDevice(
                f"torch runs {torch.get_num_threads()} threads now and ran {self._threads} when its pass shapes were "
                "probed; set the thread count before the model starts"
            )


def _weight_of(layer: nn.Linear | Conv1D | PackedLinear | QuantizedLinear) -> tuple[Tensor, Tensor | None]:
    """[outputs, inputs], and [outputs] if there is a bias."""
    if isinstance(layer, PackedLinear | QuantizedLinear):
        return layer.unpacked()
    return (layer.weight if isinstance(layer, nn.Linear) else layer.weight.mT), layer.bias


def _round_up(cells: int) -> int:
    return -(-cells // SPAN_CELLS) * SPAN_CELLS


@torch.inference_mode()
def _plain_pass(loaded: LoadedModel) -> tuple[CellShape, Tensor]:
    """Make one pass without a slotted cache, with the model's own attention: what a token leaves behind, and logits.

    Raises:
        UnsupportedModel: layers leave different things.
    """
    model = loaded.model
    cache = DynamicCache(config=model.config)
    model.set_attn_implementation("eager")
    try:
        token_ids = torch.tensor([_TRIAL_TOKENS], device=model.device) % loaded.description.vocabulary_size
        logits = model(input_ids=token_ids, past_key_values=cache, use_cache=True).logits[0].float()
    finally:
        model.set_attn_implementation(loaded.attention)
    layers: list[Any] = cache.layers
    left = {(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers}
    if len(left) != 1:
        raise UnsupportedModel(
            f"{loaded.description.model_id} keeps cells of different shapes in different layers; "
            "use a model whose layers are alike, such as Llama, GPT-2 or Qwen2"
        )
    kv_heads, key_dim, value_dim = left.pop()
    return CellShape(len(layers), kv_heads, key_dim, value_dim), logits
