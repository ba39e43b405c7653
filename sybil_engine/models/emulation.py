"""Emulated devices: real passes and real tokens, in a time that is set and with the processor idle meanwhile."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.rows import Rows, TreeRows
from sybil_engine.models.runner import ModelRunner


class EmulatedRunner(ModelRunner):
    """A runner whose passes last at least `pass_ms`, plus `row_ms` for each row behind the first."""

    def __init__(self, loaded: LoadedModel, *, pass_ms: float, row_ms: float, **options: Any) -> None:
        super().__init__(loaded, **options)
        self._pass_s = pass_ms / 1e3
        self._row_s = row_ms / 1e3

    def forward(self, batch: Sequence[Rows]) -> Tensor:
        """See `ModelRunner.forward`."""
        with self._lasting(batch):
            return super().forward(batch)

    def forward_tree(self, batch: Sequence[TreeRows]) -> Tensor:
        """See `ModelRunner.forward_tree`."""
        with self._lasting(batch):
            return super().forward_tree(batch)

    @contextmanager
    def _lasting(self, batch: Sequence[Rows] | Sequence[TreeRows]) -> Iterator[None]:
        """Wait until the pass has taken its time."""
        rows = sum(len(member.token_ids) for member in batch)
        end = time.monotonic() + self._pass_s + (rows - 1) * self._row_s
        yield
        time.sleep(max(0.0, end - time.monotonic()))
