"""How a pass is executed: its inputs, the one call into the model, and the interface of all ways of executing it."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from sybil_engine.models.cache import CacheView, PassCache, Turn


class PassInputs(NamedTuple):
    """The inputs of a pass.

    Attributes:
        token_ids, positions: [1, rows], padding included.
        mask: see `attention.cell_attention`, or in the shape for the model's own attention.
        view: the cells that the pass writes and sees.
    """

    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    view: CacheView


class Execution(Protocol):
    """A way of executing passes. One is chosen when the model starts."""

    def logits(self, inputs: PassInputs) -> Tensor:
        """Run a pass; returns [1, rows, vocabulary_size] in the model's dtype."""


def feed(module: nn.Module, inputs: PassInputs, turn: Turn | None = None) -> Any:
    """Feed a causal language model, or its base model for the cells alone.

    Args:
        turn: for a plain view, if another thread is writing the cells before its own at the same time.

    Returns:
        What the module returns.
    """
    return module(
        input_ids=inputs.token_ids,
        position_ids=inputs.positions,
        attention_mask=inputs.mask,
        past_key_values=PassCache(inputs.view, turn),
        use_cache=True,
    )
