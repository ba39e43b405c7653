"""The one way in which a model is called: over a cache that was told what the pass writes and sees."""

from typing import Any

from torch import Tensor, nn

from sybil_engine.models.slotted_cache import CacheView, SlottedCache


def feed(
    module: nn.Module, cache: SlottedCache, token_ids: Tensor, positions: Tensor, mask: Tensor, view: CacheView
) -> Any:
    """Feed [sessions, rows] tokens to a causal language model, or to its base model for the cells alone.

    Args:
        mask: from `attention.fold_mask`, or in the model's own attention's shape.

    Returns:
        What the module returns.
    """
    cache.aim(view)
    return module(
        input_ids=token_ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
    )
