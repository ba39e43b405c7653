"""Attention over a paged cache: a row gets the same bits whatever else is in its pass.

Rows of sessions that generate are computed one by one (`kernels.seen_cells`), each over the cells that its mask lists.
Chunks of prompts are matrix products, in which two things would change a row's last bits:
- Query heads that share a key head become rows of one query ("folded"), so that keys are never repeated. They are
  padded to `LEAST_FOLDED_ROWS`, because libraries use other kernels for matrix products of a few rows.
- When values are summed over more than 384 cells, MKL's float32 products split the sum into equal parts, so the split
  depends on how many cells are visible. Here values are summed in tiles of `TILE_CELLS`. Shorter types are summed as
  float32, because in their own products, too, one number in many thousands depends on the visible cells.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from sybil_engine.core.errors import UnsupportedModel
from sybil_engine.models.kernels import seen_cells

IMPLEMENTATION = "sybil_cells"
TILE_CELLS = 256
LEAST_FOLDED_ROWS = 8
_UNKNOWN_EXTRAS = ("softcap", "s_aux", "position_bias", "head_mask")


def register() -> None:
    """Make `attn_implementation="sybil_cells"` known to transformers."""
    AttentionInterface.register(IMPLEMENTATION, cell_attention)


def visibility(positions: Tensor, span: int, *, groups: int, kv_heads: int, dtype: torch.dtype) -> Tensor:
    """Build the folded additive mask of a chunk whose rows see every cell up to their own.

    Args:
        positions: [rows], the cell of each row, int64.
        span: cells in view.
        groups: query heads to a key head.

    Returns:
        [1, kv_heads, max(LEAST_FOLDED_ROWS, groups * rows), span], 0 where visible, else -inf; padding rows see every
        cell.
    """
    hidden = torch.arange(span, device=positions.device) > positions.unsqueeze(-1)
    folded_rows = groups * len(positions)
    mask = torch.zeros(max(folded_rows, LEAST_FOLDED_ROWS), span, dtype=dtype, device=positions.device)
    mask[:folded_rows].unflatten(0, (groups, -1)).masked_fill_(hidden, float("-inf"))
    return mask.expand(1, kv_heads, -1, -1)


def cell_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Attend from the rows of a pass to cells.

    Args:
        query: [1, heads, rows, head_dim].
        key, value: [1, kv_heads, span, head_dim] of a chunk; [cells, kv_heads, head_dim] of the whole cache otherwise.
        attention_mask: for a chunk from `visibility`; otherwise [1, 1, rows, 1 + most cells], int32, the lists of
            `seen_cells.attend`.

    Returns:
        [1, rows, heads, head_dim], and no weights.

    Raises:
        UnsupportedModel: the model's attention has a feature that this one lacks.
    """
    for name in _UNKNOWN_EXTRAS:
        if extras.get(name) is not None:
            raise UnsupportedModel(f"attention with {name!r} is not supported; use a model without it")
    assert attention_mask is not None, "a pass over a paged cache always carries its mask"
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    if attention_mask.dtype == torch.int32:
        rows = seen_cells.attend(query[0].transpose(0, 1), key, value, attention_mask[0, 0], scale)
        return rows.unsqueeze(0), None
    groups = query.shape[1] // key.shape[1]
    folded = query.unflatten(1, (-1, groups)).flatten(2, 3)
    folded_rows = folded.shape[2]
    if folded_rows < LEAST_FOLDED_ROWS:
        folded = functional.pad(folded, (0, 0, 0, LEAST_FOLDED_ROWS - folded_rows))
    if query.is_cuda:
        output = functional.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scale)
    else:
        output = _tiled(folded.float(), key.float(), value.float(), attention_mask.float(), scale).to(query.dtype)
    if folded_rows < LEAST_FOLDED_ROWS:
        output = output[:, :, :folded_rows]
    return output.unflatten(2, (groups, -1)).flatten(1, 2).transpose(1, 2).contiguous(), None


def _tiled(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attend from [sessions, kv_heads, folded rows, head_dim]; values are summed tile by tile in cell order."""
    value = value.flatten(0, 1)
    scores = torch.baddbmm(mask.flatten(0, 1), query.flatten(0, 1), key.flatten(0, 1).mT, alpha=scale)
    weights = torch.softmax(scores, dim=-1)
    output = torch.bmm(weights[..., :TILE_CELLS], value[:, :TILE_CELLS])
    for start in range(TILE_CELLS, value.shape[1], TILE_CELLS):
        end = start + TILE_CELLS
        output.baddbmm_(weights[..., start:end], value[:, start:end])
    unfolded: Tensor = output.unflatten(0, query.shape[:2])
    return unfolded
