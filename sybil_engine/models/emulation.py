"""Emulated devices: real passes and real tokens, in a time that is set and with the processor idle meanwhile."""

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import ModelRunner


class EmulatedRunner(ModelRunner):
    """A runner whose passes last at least `pass_ms`, plus `row_ms` for each row behind the first."""

    def __init__(self, loaded: LoadedModel, *, pass_ms: float, row_ms: float, **options: Any) -> None:
        super().__init__(loaded, **options)
        self._pass_s = pass_ms / 1e3
        self._row_s = row_ms / 1e3

    def forward(self, batch: Sequence[Rows]) -> Tensor:
        """See `ModelRunner.forward`."""
        start = time.monotonic()
        logits = super().forward(batch)
        rows = sum(len(member.token_ids) for member in batch)
        time.sleep(max(0.0, start + self._pass_s + (rows - 1) * self._row_s - time.monotonic()))
        return logits
