"""Emulated devices: real passes and real tokens, stretched to a set duration during which the processor idles."""

import time
from collections.abc import Sequence

from torch import Tensor

from sybil_engine.core.timing import sleep_until
from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows, TreeRows, count_rows
from sybil_engine.models.runner import PreparedTree


class EmulatedRunner(ModelRunner):
    """A runner whose passes, preparation included, last at least `pass_ms`, plus `row_ms` for each row but one."""

    # No delays while the model starts.
    _pass_s = _row_s = 0.0

    def __init__(self, loaded: LoadedModel, options: RunnerOptions, *, pass_ms: float, row_ms: float) -> None:
        super().__init__(loaded, options)
        self._pass_s = pass_ms / 1e3
        self._row_s = row_ms / 1e3

    def run(self, batch: Sequence[Rows], total: int) -> Tensor:
        """See `ModelRunner.run`."""
        start_s = time.monotonic()
        logits = super().run(batch, total)
        self._sleep(start_s, count_rows(batch))
        return logits

    def prepare_tree(self, batch: Sequence[TreeRows]) -> PreparedTree:
        """See `ModelRunner.prepare_tree`."""
        start_s = time.monotonic()
        prepared = super().prepare_tree(batch)
        return PreparedTree((start_s, prepared), prepared.row_counts)

    def forward_tree(self, prepared: PreparedTree) -> Tensor:
        """See `ModelRunner.forward_tree`."""
        start_s, unhurried = prepared.inputs
        logits = super().forward_tree(unhurried)
        self._sleep(start_s, sum(prepared.row_counts))
        return logits

    def _sleep(self, start_s: float, rows: int) -> None:
        """Wait until a pass of `rows` rows that began at `start_s` has taken its time."""
        sleep_until(start_s + self._pass_s + (rows - 1) * self._row_s)
