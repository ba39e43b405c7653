"""Traced passes compute the same bits as eager ones, and give way to them where a trace would not."""

from collections.abc import Iterator

import pytest
import torch

from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows
from tests.unit.models.random_models import random_model
from tests.unit.models.slots import open_slot

FIRST_BRANCH_CELL = 384
BATCHES = [
    [Rows(0, 0, (5, 6, 7))],
    [Rows(0, 3, (8,))],
    [Rows(0, 4, tuple(range(20)))],
    [Rows(0, 4, (9, 10)), Rows(2, 0, (1, 2, 3))],
    [Rows(0, 4, (9, 10)), Rows(0, 4, (11, 12, 13), FIRST_BRANCH_CELL)],
    [Rows(1, 0, tuple(range(64)))],
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits(is_traced: bool) -> list[torch.Tensor]:
    options = RunnerOptions(3, 300, numerics="fast", branch_cells=32, traced=is_traced)
    runner = ModelRunner(random_model("llama"), options)
    assert runner.branch_cells.start == FIRST_BRANCH_CELL
    assert [open_slot(runner) for _ in range(3)] == [0, 1, 2]
    runner.cache.keys.normal_(generator=torch.Generator().manual_seed(1))
    runner.cache.values.normal_(generator=torch.Generator().manual_seed(2))
    return [runner.forward(batch) for batch in BATCHES]


def test_a_trace_computes_the_same_bits() -> None:
    for mine, theirs in zip(logits(True), logits(False), strict=True):
        assert torch.equal(mine, theirs)


def test_a_trace_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_trace(module: torch.nn.Module, *_: object, **__: object) -> object:
        return lambda *tensors: module(*tensors) + 1

    monkeypatch.setattr(torch.jit, "trace", wrong_trace)
    for mine, theirs in zip(logits(True), logits(False), strict=True):
        assert torch.equal(mine, theirs)


def test_a_trace_that_fails_later_gives_way_to_the_pass_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def brittle_trace(module: torch.nn.Module, example: tuple[torch.Tensor, ...], **_: object) -> object:
        def replay(*tensors: torch.Tensor) -> object:
            if tensors[0].shape != example[0].shape:
                raise RuntimeError("a size that was taken for fixed")
            return module(*tensors)

        return replay

    monkeypatch.setattr(torch.jit, "trace", brittle_trace)
    for mine, theirs in zip(logits(True), logits(False), strict=True):
        assert torch.equal(mine, theirs)
