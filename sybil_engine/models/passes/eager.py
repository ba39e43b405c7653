"""Eager passes: the model's Python runs every time."""

from torch import Tensor
from transformers import PreTrainedModel

from sybil_engine.models.passes.execution import PassInputs, feed


class EagerPasses:
    """Executes passes of one model by calling it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def logits(self, inputs: PassInputs) -> Tensor:
        """See `Execution.logits`."""
        logits: Tensor = feed(self._model, inputs).logits
        return logits
