"""Emulated passes compute what real ones do and take the time they were given."""

import time

import torch

from sybil_engine.models.emulation import EmulatedRunner
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows, on_one_path
from tests.unit.models.random_models import random_model
from tests.unit.models.slots import open_slot

ROWS = 3


def test_verify_and_draft_passes_last_as_long_as_set() -> None:
    options = RunnerOptions(1, 64, numerics="fast", branch_cells=32)
    plain = ModelRunner(random_model("llama"), options)
    emulated = EmulatedRunner(random_model("llama"), options, pass_ms=200, row_ms=50)
    rows = Rows(open_slot(plain), 0, tuple(range(ROWS)))
    assert open_slot(emulated) == rows.slot
    tree = on_one_path(rows)

    def run(runner: ModelRunner, feed: str) -> torch.Tensor:
        return runner.forward([rows]) if feed == "forward" else runner.forward_tree(runner.prepare_tree([tree]))

    for feed in ("forward", "forward_tree"):
        start = time.monotonic()
        logits = run(emulated, feed)
        assert 0.3 <= time.monotonic() - start < 0.3 + 1
        assert torch.equal(logits, run(plain, feed))
