"""The probe keeps what agrees bit for bit, and nothing else: tried on a machine whose classes are known."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sybil_engine.core.errors import InexactDevice
from sybil_engine.models.cache import CellShape
from sybil_engine.models.numerics.probe import TOTALS, probe
from sybil_engine.models.numerics.products import Product
from sybil_engine.models.rows import Rows
from tests.unit.models.slots import paged_cache

CONTEXT = 400


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine finds fewer members of a class; these tests are about which are right."""
    monkeypatch.setattr("sybil_engine.models.numerics.probe.MEASURE_BUDGET_S", float("inf"))
    monkeypatch.setattr("sybil_engine.models.numerics.probe.VERIFY_BUDGET_S", float("inf"))


class Machine:
    """Computes a row from its token and position, plus a rounding error that depends on the pass as told."""

    def __init__(
        self, error: Callable[[int, Sequence[Rows]], float], *, in_cells: bool = False, shares_passes: bool = True
    ) -> None:
        self.cache = paged_cache(CellShape(1, 1, 1, 1), sessions=4, cells=CONTEXT + 64)
        self.vocabulary_size, self.context_tokens, self.chunk_tokens = 8, CONTEXT, 64
        self.shares_passes = shares_passes
        self._error, self._in_cells = error, in_cells

    def run(self, batch: Sequence[Rows], total: int) -> Tensor:
        assert sum(len(rows.token_ids) for rows in batch) <= total
        assert self.shares_passes or len(batch) == 1
        logits = torch.zeros(total, self.vocabulary_size)
        start = 0
        error = self._error(total, batch)
        for rows in batch:
            for row, token in enumerate(rows.token_ids):
                logits[start + row] = token + rows.position + row + (0 if self._in_cells else error)
                place = self.cache.pool.place(rows.slot, rows.position + row)
                self.cache.keys[0, place] = token + (error if self._in_cells else 0)
            start += len(rows.token_ids)
        return logits


def classes(*bounds: int) -> Callable[[int, Sequence[Rows]], float]:
    """Totals below each bound make a class."""
    return lambda total, _: sum(total >= bound for bound in bounds) / 64


@pytest.mark.parametrize("in_cells", [False, True])
def test_the_class_holds_the_totals_that_agree(in_cells: bool) -> None:
    machine = Machine(classes(2, 4, 13), in_cells=in_cells)
    assert probe(machine, keep_total=6).totals == (4, 5, 6, 7, 8, 10, 12)
    assert probe(machine, keep_total=3).totals == (2, 3)


@pytest.mark.parametrize(
    ("bounds", "kept"), [((2, 4, 13), 4), ((2, 3, 4), 4), ((3, 6), 4), ((6,), 2), ((2, 9), 2), ((5,), 5)]
)
def test_the_class_with_the_most_row_counts_for_one_session_is_kept(bounds: tuple[int, ...], kept: int) -> None:
    totals = probe(Machine(classes(*bounds))).totals
    assert kept in totals
    assert totals == probe(Machine(classes(*bounds)), keep_total=kept).totals


@pytest.mark.parametrize("shares_passes", [False, True])
def test_a_machine_that_always_agrees_keeps_every_total(shares_passes: bool) -> None:
    found = probe(Machine(classes(), shares_passes=shares_passes))
    assert found.totals == TOTALS
    assert found.most_rows == 64


def test_a_total_that_other_sessions_change_ends_the_class() -> None:
    found = probe(Machine(lambda total, batch: float(total == 12 and len(batch) > 1)))
    assert found.totals == (1, 2, 3, 4, 5, 6, 7, 8, 10)


def test_a_total_that_a_long_neighbour_changes_ends_the_class() -> None:
    def error(total: int, batch: Sequence[Rows]) -> float:
        return float(total >= 20 and len(batch) > 1 and max(rows.position for rows in batch) > 64)

    assert probe(Machine(error)).totals == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)


def test_a_machine_of_which_no_two_row_counts_agree_is_refused() -> None:
    with pytest.raises(InexactDevice, match="start with fast numerics"):
        probe(Machine(lambda total, _: float(total)), keep_total=1)


def test_a_machine_that_does_not_repeat_itself_is_refused() -> None:
    calls = iter(range(100_000))
    with pytest.raises(InexactDevice):
        probe(Machine(lambda *_: float(next(calls))))


def test_a_product_that_differs_splits_a_class_that_whole_passes_do_not_show() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).bfloat16()

    def apply(inputs: Tensor) -> Tensor:
        order = torch.arange(63, -1, -1) if inputs.shape[1] >= 5 else torch.arange(64)
        terms = inputs[..., order].float().unsqueeze(2) * weight[:, order].float()
        return terms.sum(-1).bfloat16()

    machine = Machine(classes())
    products = [Product(apply, weight, None)]
    assert probe(machine, products, keep_total=2).totals == (1, 2, 3, 4)
    assert probe(machine, products, keep_total=8).totals == TOTALS[4:]


def test_a_row_count_that_is_never_tried_is_refused_with_those_that_are() -> None:
    with pytest.raises(InexactDevice, match="name one of 1, 2, 3"):
        probe(Machine(classes()), keep_total=9)


def test_the_probe_leaves_every_page_free_and_every_number_finite() -> None:
    machine = Machine(classes(2))
    probe(machine)
    assert machine.cache.keys.isfinite().all()
    assert machine.cache.values.isfinite().all()
    assert machine.cache.pool.open_slots == 0
    assert machine.cache.pool.room == machine.cache.pool.pages
