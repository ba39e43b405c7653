"""Exact numerics: which row counts of a pass compute a row to the same bits on this device, and the choice among them.

Linear algebra libraries choose the order of a sum by a product's shape, so a pass of one row and a pass of six may
differ in the last bits, and resolve a near tie differently. Row counts fall into classes that agree bit for bit. The
probe finds the classes for this model, dtype, device and thread count, and the engine keeps to one of them for its
lifetime. How the rows of a pass are divided among sessions makes no difference: products see rows, and attention
computes each row by itself (`kernels.seen_cells`); the probe tests that too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sybil_engine.core.errors import InexactDevice
from sybil_engine.models.numerics.fed_rows import FedRows, ProbedRunner, feed_rows, probed_slots, scatter
from sybil_engine.models.numerics.products import Product, outputs_in_groups, telling_inputs
from sybil_engine.models.numerics.row_class import RowClass

TOTALS = (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
# The committed token and a window of 1 to 7 are always tested, however slow the machine is.
SINGLE_SESSION_TOTALS = range(2, 9)
LEAST_ROWS = 2
MEASURE_BUDGET_S = 1.0
VERIFY_BUDGET_S = 6.0
# A rounding difference shows in few of a row's numbers, fewest in bfloat16, so many must be compared.
_COMPARED_NUMBERS = 2**17
_COMPARED_ROWS = (16, 64)
_REFERENCE_TOTAL = 8
_MOST_SESSIONS = 8
_SEED = 0x5B11


@dataclass(frozen=True, slots=True)
class _Measured:
    """The results of a pass of `total` rows, and of each product alone for the same rows."""

    total: int
    fed: FedRows
    products: tuple[Tensor, ...]


@torch.inference_mode()
def probe(
    runner: ProbedRunner,
    products: Sequence[Product] = (),
    keep_total: int | None = None,
    most_rows: int = TOTALS[-1],
) -> RowClass:
    """Find the row counts that agree, and choose the class to keep.

    The rule: the class with the most of `SINGLE_SESSION_TOTALS`; on a tie, the one of smaller passes. Measured times
    play no part, so a verifier that restarts, or one on an equal machine, keeps the same class: see
    docs/adr/0003-row-class-by-rule.md. A class of fewer than `LEAST_ROWS` rows would rule out speculation and is not
    chosen. Which larger totals of a class are found may depend on the time that the search takes; their bits do not.

    Args:
        products: of the runner's model.
        keep_total: a row count whose class to keep, instead of the rule's choice.
        most_rows: the most rows of any pass that will run; larger totals are not tested.

    Raises:
        InexactDevice: no class has `LEAST_ROWS` rows, or none holds `keep_total`.
    """
    if keep_total and keep_total not in TOTALS:
        raise InexactDevice(f"passes of {keep_total} rows are never made; name one of {', '.join(map(str, TOTALS))}")
    generator = torch.Generator().manual_seed(_SEED)
    with probed_slots(runner, _MOST_SESSIONS) as (slots, cells):
        measured = _measure(runner, products, slots[0], cells, most_rows, generator)
        groups = [
            group
            for group in _agreeing(measured)
            if group[-1].total >= LEAST_ROWS and (keep_total is None or keep_total in [one.total for one in group])
        ]
        for group in sorted(groups, key=_preference):
            totals = _verify(runner, group, slots, cells, generator)
            if totals and totals[-1] >= LEAST_ROWS:
                return RowClass(totals)
    raise InexactDevice(
        f"no passes of different row counts {f'({keep_total} among them) ' if keep_total else ''}agree bit for bit on "
        "this device, so speculation would change the output; start with fast numerics, or change dtype, device or "
        "thread count"
    )


def _measure(
    runner: ProbedRunner,
    products: Sequence[Product],
    slot: int,
    cells: int,
    most_rows: int,
    generator: torch.Generator,
) -> list[_Measured]:
    """Feed a session every total twice, and each product alone; keep totals that reproduce their own bits."""
    most = min(most_rows, runner.chunk_tokens, cells // 2)
    rows = scatter(runner, slot, min(cells - most, 300), most, generator)
    inputs_of = [(product, telling_inputs(product, TOTALS[-1], generator)) for product in products]
    first: dict[int, FedRows] = {}
    start = _now(runner)
    for total in TOTALS:
        if total > most or (total not in SINGLE_SESSION_TOTALS and _now(runner) - start > MEASURE_BUDGET_S / 2):
            break
        first[total] = feed_rows(runner, [rows.part(0, total)], total)[0]
    measured = []
    for total, fed in first.items():
        again = feed_rows(runner, [rows.part(0, total)], total)[0]
        if fed.agrees(again, total):
            outputs = tuple(outputs_in_groups(product, inputs, total) for product, inputs in inputs_of)
            measured.append(_Measured(total, fed, outputs))
    return measured


def _now(runner: ProbedRunner) -> float:
    """Seconds. On a processor, only this thread's own time, so that other programs' work does not count."""
    if runner.cache.keys.is_cuda:
        torch.cuda.synchronize(runner.cache.keys.device)
        return time.perf_counter()
    return time.thread_time()


def _agreeing(measured: Sequence[_Measured]) -> list[list[_Measured]]:
    """Group totals that agree on all shared rows with every member; groups and members in ascending order."""
    groups: list[list[_Measured]] = []
    for one in measured:
        for group in groups:
            if all(_alike(one, other) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _alike(one: _Measured, other: _Measured) -> bool:
    return one.fed.agrees(other.fed, min(one.total, other.total)) and all(
        torch.equal(mine, yours) for mine, yours in zip(one.products, other.products, strict=True)
    )


def _preference(group: Sequence[_Measured]) -> tuple[int, int]:
    """See the rule of `probe`; the least is chosen."""
    return -sum(one.total in SINGLE_SESSION_TOTALS for one in group), group[0].total


def _verify(
    runner: ProbedRunner, group: Sequence[_Measured], slots: Sequence[int], cells: int, generator: torch.Generator
) -> list[int]:
    """Keep the totals of this group with which every session gets the bits of passes of its own.

    They are tested with one session and with several, short and long, rows that start anywhere, and padding. Libraries
    switch kernels at some number of rows: if a total disagrees, those beyond it are not trusted either.
    """
    totals = [one.total for one in group]
    enough = min(max(_COMPARED_NUMBERS // group[0].fed.numbers_a_row, _COMPARED_ROWS[0]), _COMPARED_ROWS[1])
    middle = min(totals, key=lambda total: (abs(total - _REFERENCE_TOTAL), total))
    rows = min(max(totals[-1], enough), cells // 2)
    references = [
        _reference(runner, slot, place % 2 == 0, rows, cells - rows, middle, generator)
        for place, slot in enumerate(slots)
    ]
    kept: list[int] = []
    start = _now(runner)
    # From the middle on, first upwards: those are most useful.
    for total in [each for each in totals if each >= middle]:
        late = total not in SINGLE_SESSION_TOTALS and _now(runner) - start > VERIFY_BUDGET_S
        if late or not _holds(runner, references, total, enough, generator):
            break
        kept.append(total)
    for total in reversed([each for each in totals if each < middle]):
        if not _holds(runner, references, total, enough, generator):
            break
        kept.insert(0, total)
    return kept


def _holds(
    runner: ProbedRunner, references: Sequence[FedRows], total: int, enough_rows: int, generator: torch.Generator
) -> bool:
    """Test a total until enough rows agree, or one does not: with one session, and with as many as fit."""
    most = min(total, len(references)) if runner.shares_passes else 1
    compared = 0
    while compared < enough_rows:
        for sessions in {1, most}:
            order = torch.randperm(len(references), generator=generator)[:sessions].tolist()
            rows = _compare(runner, [references[place] for place in order], total, generator)
            if rows is None:
                return False
            compared += rows
    return True


def _reference(
    runner: ProbedRunner, slot: int, starts_early: bool, rows: int, room: int, total: int, generator: torch.Generator
) -> FedRows:
    """Feed one session alone, in passes of `total` rows, after at most `room` cells."""
    low, high = (1, min(64, room)) if starts_early else (min(64, room - 1), room)
    position = int(torch.randint(low, high, (), generator=generator))
    whole = scatter(runner, slot, position, rows, generator)
    parts = []
    for piece in whole.cut(total):
        parts += feed_rows(runner, [piece], total)
    return FedRows(whole, tuple(torch.cat(one, dim=0) for one in zip(*(part.computed for part in parts), strict=True)))


def _compare(runner: ProbedRunner, references: Sequence[FedRows], total: int, generator: torch.Generator) -> int | None:
    """Feed a part of each reference in one pass of this total, and put the cells back.

    Returns:
        How many rows were compared; None if they differ.
    """
    batch, expected = [], []
    room = total
    for place, reference in enumerate(references):
        most = min(room - (len(references) - place - 1), len(reference.rows.token_ids))
        count = int(torch.randint(1, most + 1, (), generator=generator))
        room -= count
        offset = int(torch.randint(0, len(reference.rows.token_ids) - count + 1, (), generator=generator))
        expected.append(reference.part(offset, count))
        batch.append(expected[-1].rows)
    fed = feed_rows(runner, batch, total)
    for reference in references:
        reference.put_back(runner.cache)
    if not all(new.agrees(old, len(old.rows.token_ids)) for new, old in zip(fed, expected, strict=True)):
        return None
    return total - room
