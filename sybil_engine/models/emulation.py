"""Emulated devices: real passes and real tokens, in a time that is set and with the processor idle meanwhile."""

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sybil_engine.core.timing import sleep_until
from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.model_runner import ModelRunner, TreePass
from sybil_engine.models.rows import Rows, Shape, TreeRows


class EmulatedRunner(ModelRunner):
    """A runner whose passes, preparation included, last at least `pass_ms`, plus `row_ms` for each row but one."""

    def __init__(self, loaded: LoadedModel, *, pass_ms: float, row_ms: float, **options: Any) -> None:
        # What is tried at the start is not held up.
        self._pass_s = self._row_s = 0.0
        super().__init__(loaded, **options)
        self._pass_s = pass_ms / 1e3
        self._row_s = row_ms / 1e3
        self._prepared_at_s = 0.0

    def run(self, batch: Sequence[Rows], shape: Shape) -> Tensor:
        """See `ModelRunner.run`."""
        start_s = time.monotonic()
        logits = super().run(batch, shape)
        self._sleep(start_s, sum(len(member.token_ids) for member in batch))
        return logits

    def prepare_tree(self, batch: Sequence[TreeRows]) -> TreePass:
        """See `ModelRunner.prepare_tree`."""
        self._prepared_at_s = time.monotonic()
        return super().prepare_tree(batch)

    def forward_tree(self, prepared: TreePass) -> Tensor:
        """See `ModelRunner.forward_tree`."""
        logits = super().forward_tree(prepared)
        self._sleep(self._prepared_at_s, sum(prepared.row_counts))
        return logits

    def _sleep(self, start_s: float, rows: int) -> None:
        """Wait until a pass that began at `start_s` has taken its time."""
        sleep_until(start_s + self._pass_s + (rows - 1) * self._row_s)
