"""Exact numerics: which shapes of a pass compute a row to the same bits on this device, and the choice among them.

Linear algebra libraries choose the order of a sum by a product's shape, so a pass of one row and a pass of six may
differ in the last bits, and resolve a near tie differently. Shapes fall into classes that agree bit for bit. The probe
finds the classes for this model, dtype, device and thread count, and the engine keeps to one of them for its lifetime.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sybil_engine.core.errors import InexactDevice
from sybil_engine.models.numerics.fed_rows import FedRows, ProbedRunner, feed_rows, scatter
from sybil_engine.models.numerics.products import Product, outputs_in_groups, telling_inputs
from sybil_engine.models.numerics.shape_class import ShapeClass
from sybil_engine.models.rows import Shape

TOTALS = (*range(1, 9), 10, 12, 14, 16, 24, 32, 48, 64)
# The committed token and a window of 1 to 7 are always tested, however slow the machine is.
SINGLE_SESSION_TOTALS = range(2, 9)
# Passes of several sessions come in few sizes, the most useful first; others are padded.
_SESSIONS = (2, 3, 4, 6, 8, 16)
_ROWS_A_SESSION = (4, 1, 8, 2, 16)
LEAST_ROWS = 2
MEASURE_BUDGET_S = 1.0
VERIFY_BUDGET_S = 6.0
# A rounding difference shows in few of a row's numbers, fewest in bfloat16, so many must be compared.
_COMPARED_NUMBERS = 2**17
_COMPARED_ROWS = (16, 64)
_REFERENCE_TOTAL = 8
_LONG_REFERENCES = 2
_SEED = 0x5B11


@dataclass(frozen=True, slots=True)
class _Measured:
    """The results of passes of [1, total], and of each product alone for the same rows."""

    total: int
    fed: FedRows
    products: tuple[Tensor, ...]


@torch.inference_mode()
def probe(
    runner: ProbedRunner,
    products: Sequence[Product] = (),
    keep_total: int | None = None,
    most_rows: int = TOTALS[-1],
) -> ShapeClass:
    """Find the shapes that agree, and choose the class to keep.

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
    measured = _measure(runner, products, most_rows, generator)
    groups = [
        group
        for group in _agreeing(measured)
        if group[-1].total >= LEAST_ROWS and (keep_total is None or keep_total in [one.total for one in group])
    ]
    groups.sort(key=lambda group: (-sum(each.total in SINGLE_SESSION_TOTALS for each in group), group[0].total))
    try:
        for group in groups:
            shapes = _verify(runner, group, generator)
            if shapes and max(rows for _, rows in shapes) >= LEAST_ROWS:
                return ShapeClass(shapes)
    finally:
        runner.cache.keys.zero_()
        runner.cache.values.zero_()
    raise InexactDevice(
        f"no pass shapes {f'with {keep_total} rows ' if keep_total else ''}agree bit for bit on this device, so "
        "speculation would change the output; start with fast numerics, or change dtype, device or thread count"
    )


def _measure(
    runner: ProbedRunner, products: Sequence[Product], most_rows: int, generator: torch.Generator
) -> list[_Measured]:
    """Run every total twice as [1, total], and each product alone; keep totals that reproduce their own bits."""
    most = min(most_rows, runner.chunk_tokens, runner.context_tokens // 2)
    rows = scatter(runner, 0, min(runner.context_tokens - most, 300), most, generator)
    inputs_of = [(product, telling_inputs(product, TOTALS[-1], generator)) for product in products]
    first: dict[int, FedRows] = {}
    start = _now(runner)
    for total in TOTALS:
        if total > most or (total not in SINGLE_SESSION_TOTALS and _now(runner) - start > MEASURE_BUDGET_S / 2):
            break
        first[total] = feed_rows(runner, [rows.part(0, total)], (1, total))[0]
    measured = []
    for total, fed in first.items():
        again = feed_rows(runner, [rows.part(0, total)], (1, total))[0]
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


def _verify(runner: ProbedRunner, group: Sequence[_Measured], generator: torch.Generator) -> list[Shape]:
    """Keep the shapes of this group in which every session gets the bits of small passes of its own.

    They are tested with neighbouring and scattered slots, short and long sessions together, rows that start anywhere,
    and padding. Single-session shapes come first, then one of each session count, so that the time limit never cuts
    these off. Libraries switch kernels at some number of rows: if a single-session shape disagrees, totals beyond it
    are not trusted either.
    """
    totals = [one.total for one in group]
    enough = min(max(_COMPARED_NUMBERS // group[0].fed.numbers_a_row, _COMPARED_ROWS[0]), _COMPARED_ROWS[1])
    session_counts = [count for count in _SESSIONS if count <= min(runner.cache.slots, totals[-1])]
    slots = [*range(max(session_counts, default=1)), runner.cache.scratch_slot]
    middle = min(totals, key=lambda total: (abs(total - _REFERENCE_TOTAL), total))
    many, few = (min(rows, runner.context_tokens // 2) for rows in (max(totals[-1], enough), _COMPARED_ROWS[0]))
    references = [
        _reference(runner, slot, place % 2 == 0, many if place < _LONG_REFERENCES else few, middle, generator)
        for place, slot in enumerate(slots)
    ]
    kept: list[Shape] = []
    lowest, highest = 0, totals[-1] + 1
    start = _now(runner)
    for number, shape in enumerate(_shapes(totals, session_counts)):
        if number >= len(totals) + len(session_counts) and _now(runner) - start > VERIFY_BUDGET_S:
            break
        sessions, total = shape[0], shape[0] * shape[1]
        if not lowest < total < highest:
            continue
        tried = references[:_LONG_REFERENCES] if sessions == 1 else references
        if _holds(runner, tried, shape, enough if sessions == 1 else _COMPARED_ROWS[0], generator):
            kept.append(shape)
        elif sessions == 1 and total < middle:
            lowest = total
        elif sessions == 1:
            highest = total
    return [shape for shape in kept if lowest < shape[0] * shape[1] < highest]


def _holds(
    runner: ProbedRunner, references: Sequence[FedRows], shape: Shape, enough_rows: int, generator: torch.Generator
) -> bool:
    """Test a shape until enough rows agree, or one does not; alternately full on neighbours and ragged on any slots."""
    sessions, _ = shape
    compared = 0
    while compared < enough_rows:
        for ragged in (False, True):
            order = torch.randperm(len(references), generator=generator)[:sessions].tolist()
            members = [references[place] for place in order] if ragged else references[:sessions]
            rows = _compare(runner, members, shape, generator, ragged=ragged)
            if rows is None:
                return False
            compared += rows
    return True


def _shapes(totals: Sequence[int], session_counts: Sequence[int]) -> list[Shape]:
    """Shapes of these totals: single sessions first, then each session count's most useful one, then its next."""
    shapes = [
        [(sessions, rows) for rows in _ROWS_A_SESSION if sessions * rows in totals] for sessions in session_counts
    ]
    ranked = [(rank, shape) for column in shapes for rank, shape in enumerate(column)]
    return [(1, total) for total in totals] + [shape for _, shape in sorted(ranked)]


def _reference(
    runner: ProbedRunner, slot: int, starts_early: bool, rows: int, total: int, generator: torch.Generator
) -> FedRows:
    """Feed one session alone, in passes of [1, total]."""
    room = runner.context_tokens - rows
    low, high = (1, min(64, room)) if starts_early else (min(64, room - 1), room)
    position = int(torch.randint(low, high, (), generator=generator))
    whole = scatter(runner, slot, position, rows, generator)
    parts = []
    for piece in whole.cut(total):
        parts += feed_rows(runner, [piece], (1, total))
    return FedRows(whole, tuple(torch.cat(one, dim=-2) for one in zip(*(part.computed for part in parts), strict=True)))


def _compare(
    runner: ProbedRunner, references: Sequence[FedRows], shape: Shape, generator: torch.Generator, *, ragged: bool
) -> int | None:
    """Feed a part of each reference in one pass of this shape, and put the cells back.

    Returns:
        How many rows were compared; None if they differ.
    """
    _, rows = shape
    batch, expected = [], []
    for reference in references:
        count = int(torch.randint(1, rows + 1, (), generator=generator)) if ragged else rows
        offset = int(torch.randint(0, len(reference.rows.token_ids) - rows + 1, (), generator=generator))
        expected.append(reference.part(offset, count))
        batch.append(expected[-1].rows)
    fed = feed_rows(runner, batch, shape)
    for reference in references:
        reference.put_back(runner.cache)
    if not all(new.agrees(old, len(old.rows.token_ids)) for new, old in zip(fed, expected, strict=True)):
        return None
    return sum(len(member.token_ids) for member in batch)
