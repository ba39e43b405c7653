"""Traced passes: the same torch calls without the Python around them, which takes as long as small products do.

A trace records the calls of one pass and replays them with other tensors. Sizes stay variable, so one trace serves any
number of sessions and rows. A trace that does not reproduce its own pass bit for bit is not used.
"""

import logging
import warnings
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sybil_engine.models.cache import CacheView, ViewKind
from sybil_engine.models.passes.execution import PassInputs, feed

_log = logging.getLogger(__name__)


class TracedPasses:
    """Executes passes of one model from a trace for each kind of view."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._untraced = {kind: TensorPass(model, kind) for kind in get_args(ViewKind)}
        self._traces: dict[ViewKind, Any] = {}

    def logits(self, inputs: PassInputs) -> Tensor:
        """See `Execution.logits`."""
        token_ids, positions, mask, view = inputs
        tensors = (token_ids, positions, mask, *view.tensors)
        untraced = self._untraced[view.kind]
        if view.kind not in self._traces:
            self._traces[view.kind] = _trace(untraced, tensors)
        result: Tensor
        try:
            result = self._traces[view.kind](*tensors)
        except RuntimeError as error:
            # The trace took some size for a constant. The cells that it wrote are written again.
            _log.warning("a trace is given up: %s", str(error).strip().splitlines()[-1])
            self._traces[view.kind] = untraced
            result = untraced(*tensors)
        return result


class TensorPass(nn.Module):
    """A pass as a function of tensors alone.

    Args:
        kind: of the view that consists of the last tensors.
    """

    def __init__(self, model: PreTrainedModel, kind: ViewKind) -> None:
        super().__init__()
        self.model = model
        self.kind: ViewKind = kind

    def forward(self, token_ids: Tensor, positions: Tensor, mask: Tensor, *view: Tensor) -> Tensor:
        inputs = PassInputs(token_ids, positions, mask, CacheView(self.kind, view))
        logits: Tensor = feed(self.model, inputs).logits
        return logits


def _trace(untraced: TensorPass, tensors: tuple[Tensor, ...]) -> Any:
    """Trace a pass, or return the pass itself if its trace computes something else."""
    expected = untraced(*tensors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(untraced, tensors, check_trace=False, strict=False)
        for _ in range(3):  # torch specialises a trace in its first runs
            if not torch.equal(traced(*tensors), expected):
                raise RuntimeError("it computes something else")
    except RuntimeError as error:
        _log.warning("passes are not traced: %s", str(error).strip().splitlines()[-1])
        return untraced
    return traced
