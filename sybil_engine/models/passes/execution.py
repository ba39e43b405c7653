"""The one way in which a model is called: over the cells that the pass writes and sees."""

from typing import Any

from torch import Tensor, nn

from sybil_engine.models.cache import CacheView, PassCache, Turn


def feed(
    module: nn.Module, token_ids: Tensor, positions: Tensor, mask: Tensor, view: CacheView, turn: Turn | None = None
) -> Any:
    """Feed [sessions, rows] tokens to a causal language model, or to its base model for the cells alone.

    Args:
        mask: from `attention.fold_mask`, or in the model's own attention's shape.
        turn: of a plain view, if the cells before its own are fed at the same time.

    Returns:
        What the module returns.
    """
    return module(
        input_ids=token_ids,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=PassCache(view, turn),
        use_cache=True,
    )
