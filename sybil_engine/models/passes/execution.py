"""How a pass is executed: what it is fed, the one call into the model, and what every way of executing it offers."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from sybil_engine.models.cache import CacheView, PassCache, Turn


class PassInputs(NamedTuple):
    """What a pass is fed.

    Attributes:
        token_ids, positions: [sessions, rows], padding included.
        mask: from `attention.fold_mask`, or in the shape that the model's own attention takes.
        view: the cells that the pass writes and sees.
    """

    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    view: CacheView


class Execution(Protocol):
    """A way of executing passes. One is chosen when the model starts."""

    def logits(self, inputs: PassInputs) -> Tensor:
        """Make a pass; returns [sessions, rows, vocabulary_size] in the model's dtype."""

    def rehearsals(self, end: int) -> range:
        """The cells below `end` at which passes should start that are made in advance, so that later ones are quick."""


def feed(module: nn.Module, inputs: PassInputs, turn: Turn | None = None) -> Any:
    """Feed a causal language model, or its base model for the cells alone.

    Args:
        turn: of a plain view, if the cells before its own are being written at the same time.

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
