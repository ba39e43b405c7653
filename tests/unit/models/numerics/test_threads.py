"""More threads are used only if they change no bit of any pass."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from sybil_engine.models.cache import CellShape
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.numerics.row_class import RowClass
from sybil_engine.models.numerics.threads import threads_agree, threads_set
from sybil_engine.models.rows import Rows
from tests.unit.models.random_models import random_model
from tests.unit.models.slots import open_slot, paged_cache

ROWS = RowClass([2, 4, 6])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads_set(1):
        yield


class ThreadedMachine:
    """Computes a row from its token and position, plus an error that depends on the threads, in passes of one size."""

    shares_passes = True

    def __init__(self, wrong: int, *, in_cells: bool) -> None:
        self.cache = paged_cache(CellShape(1, 1, 1, 1), sessions=2, cells=128)
        self.vocabulary_size, self.context_tokens, self.chunk_tokens = 8, 64, 64
        self._wrong, self._in_cells = wrong, in_cells

    def run(self, batch: Sequence[Rows], total: int) -> Tensor:
        error = (torch.get_num_threads() - 1) / 64 if total == self._wrong else 0
        logits = torch.zeros(total, self.vocabulary_size)
        (rows,) = batch
        for row, token in enumerate(rows.token_ids):
            logits[row] = token + rows.position + row + (0 if self._in_cells else error)
            place = self.cache.pool.place(rows.slot, rows.position + row)
            self.cache.keys[0, place] = token + (error if self._in_cells else 0)
        return logits


@pytest.mark.parametrize("in_cells", [False, True])
@pytest.mark.parametrize("total", ROWS.totals)
def test_one_row_count_that_differs_rules_more_threads_out(total: int, in_cells: bool) -> None:
    machine = ThreadedMachine(total, in_cells=in_cells)
    assert not threads_agree(machine, ROWS, 2)
    assert threads_agree(machine, ROWS, 1)
    assert machine.cache.pool.room == machine.cache.pool.pages


def test_row_counts_that_all_agree_allow_more_threads() -> None:
    assert threads_agree(ThreadedMachine(3, in_cells=False), ROWS, 2)


@pytest.mark.parametrize(("agree", "used"), [(True, 2), (False, 1)])
def test_a_pass_takes_more_threads_only_alone_and_only_if_bits_agree(
    agree: bool, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sybil_engine.models.model_runner.threads_agree", lambda *_: agree)
    runner = ModelRunner(random_model("llama"), RunnerOptions(max_sessions=1, context_tokens=128, alone_threads=2))
    seen: list[int] = []
    run = runner.run

    def seeing_run(batch: Sequence[Rows], total: int) -> Tensor:
        seen.append(torch.get_num_threads())
        return run(batch, total)

    monkeypatch.setattr(runner, "run", seeing_run)
    slot = open_slot(runner)
    runner.forward([Rows(slot, 0, (1,))])
    runner.forward([Rows(slot, 1, (1,))], alone=True)
    runner.forward([Rows(slot, 2, (1,))])
    assert seen == [1, used, 1]
