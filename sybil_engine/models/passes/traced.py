"""Traced passes: the same torch calls without the Python around them, which takes as long as the small products.

A trace records the calls of one pass and replays them with other tensors. Sizes stay variable in it, but a branch or a
loop in Python is recorded as it went once: so there is one trace for each way that the code can go, made when it is
first needed. A trace that does not repeat its own pass bit for bit is not used.
"""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sybil_engine.models.attention import LEAST_FOLDED_ROWS, TILE_CELLS
from sybil_engine.models.cache import CacheView
from sybil_engine.models.passes.execution import feed

_log = logging.getLogger(__name__)

Way = tuple[object, ...]
"""What decides how Python goes through a pass."""


class TracedPasses:
    """Runs passes of one model; those of a single session, and those with branches, from traces.

    Args:
        groups: query heads to a key head.
    """

    def __init__(self, model: PreTrainedModel, groups: int) -> None:
        self._pass = TensorPass(model)
        self._groups = groups
        self._traces: dict[Way, Any] = {}

    def logits(self, token_ids: Tensor, positions: Tensor, mask: Tensor, view: CacheView) -> Tensor:
        """Feed tokens; see `SlottedCache.view` for what `view` says.

        Args:
            token_ids, positions: [sessions, rows].
            mask: from `attention.fold_mask`.

        Returns:
            [sessions, rows, vocabulary].
        """
        sessions, rows = token_ids.shape
        inputs = (token_ids, positions, mask, *view.tensors)
        if sessions > 1 and view.kind != "ordered":
            # In a crowd the Python is shared, and there are more ways to go: each trace holds up everybody once.
            return _Untraced(self._pass, view.kind)(*inputs)
        way = (self._groups * rows < LEAST_FOLDED_ROWS, -(-mask.shape[3] // TILE_CELLS), view.kind)
        if way not in self._traces:
            self._traces[way] = self._trace(view.kind, inputs)
        try:
            result: Tensor = self._traces[way](*inputs)
        except RuntimeError as error:
            # A size that the trace took for fixed. Cells that it wrote are written again.
            _log.warning("a trace is given up: %s", str(error).strip().splitlines()[-1])
            self._traces[way] = _Untraced(self._pass, view.kind)
            result = self._traces[way](*inputs)
        return result

    def _trace(self, kind: str, inputs: tuple[Tensor, ...]) -> Any:
        """Trace a pass, or return the pass itself where its trace does something else."""
        self._pass.kind = kind
        expected = self._pass(*inputs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                traced = torch.jit.trace(self._pass, inputs, check_trace=False, strict=False)
            for _ in range(3):  # torch specialises a trace in its first runs
                if not torch.equal(traced(*inputs), expected):
                    raise RuntimeError("it computes something else")
        except RuntimeError as error:
            _log.warning("passes are not traced: %s", str(error).strip().splitlines()[-1])
            return _Untraced(self._pass, kind)
        return traced


class TensorPass(nn.Module):
    """A pass as a function of tensors alone.

    Attributes:
        kind: of the view that the tensors make up.
    """

    kind: str

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.kind = ""

    def forward(self, token_ids: Tensor, positions: Tensor, mask: Tensor, *view: Tensor) -> Tensor:
        logits: Tensor = feed(self.model, token_ids, positions, mask, CacheView(self.kind, view)).logits
        return logits


class _Untraced:
    """The pass as Python runs it."""

    def __init__(self, pass_: TensorPass, kind: str) -> None:
        self._pass = pass_
        self._kind = kind

    def __call__(self, *inputs: Tensor) -> Tensor:
        self._pass.kind = self._kind
        logits: Tensor = self._pass(*inputs)
        return logits
