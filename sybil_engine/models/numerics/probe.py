"""Exact numerics: which shapes of a pass compute a row to the same bits on this device, and the choice among them.

Linear algebra libraries sum in another order for another shape, so a pass of one row and a pass of six may differ in
the last bits and flip a near tie. Shapes fall into classes that agree bit for bit. The probe finds the classes that
hold for this model, dtype, device and thread count, and the engine stays in one of them for life.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sybil_engine.core.errors import InexactDevice
from sybil_engine.models.cache import SlottedCache
from sybil_engine.models.rows import Rows, Shape

TOTALS = (*range(1, 9), 10, 12, 14, 16, 24, 32, 48, 64)
# The committed token and a window of 1 to 7: always tried, however slow the machine.
SINGLE_SESSION_TOTALS = range(2, 9)
# Passes of several sessions come in few sizes, the most useful first; others are padded.
_SESSIONS = (2, 3, 4, 6, 8, 16)
_ROWS_A_SESSION = (4, 1, 8, 2, 16)
LEAST_ROWS = 2
MEASURE_BUDGET_S = 1.0
VERIFY_BUDGET_S = 6.0
# A rounding difference shows in few of the numbers that a row computes, most of all in bfloat16: compare enough.
_COMPARED_NUMBERS = 2**17
_COMPARED_ROWS = (16, 64)
_REFERENCE_TOTAL = 8
_LONG_REFERENCES = 2
_CANCELLED_OUTPUTS = 64
_SEED = 0x5B11


class ShapeClass:
    """Shapes of a pass that agree bit for bit."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = tuple(sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape)))
        self.totals = tuple(sorted({sessions * rows for sessions, rows in self.shapes}))
        self.most_rows = max((rows for _, rows in self.shapes), default=0)
        most_sessions = max((sessions for sessions, _ in self.shapes), default=0)
        self._fits = {
            (sessions, rows): self._smallest(sessions, rows)
            for sessions in range(1, most_sessions + 1)
            for rows in range(1, self.most_rows + 1)
        }

    def __repr__(self) -> str:
        return f"ShapeClass(totals={self.totals}, shapes={len(self.shapes)})"

    def fit(self, sessions: int, rows: int) -> Shape | None:
        """The cheapest shape that holds `sessions` of `rows` each; None if there is none.

        Padding behind rows comes before padding with whole sessions, which costs a copy of the cells in view.
        """
        return self._fits.get((sessions, rows))

    def _smallest(self, sessions: int, rows: int) -> Shape | None:
        holding = [shape for shape in self.shapes if shape[0] >= sessions and shape[1] >= rows]
        return min(holding, key=lambda shape: (shape[0] > sessions, shape[0] * shape[1], shape[0]), default=None)


class Passes(Protocol):
    """What the probe needs of a model runner."""

    cache: SlottedCache
    vocabulary_size: int
    context_tokens: int
    chunk_tokens: int

    @property
    def products(self) -> Sequence["Product"]: ...

    def run(self, batch: Sequence[Rows], shape: Shape) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product of the model: most of what a pass computes, and where row counts matter most.

    Attributes:
        apply: [1, rows, inputs] to [1, rows, outputs].
        weight: [outputs, inputs].
        bias: [outputs], if there is one.
    """

    apply: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class _Fed:
    """One session's tokens, and what a pass computed for them.

    Attributes:
        logits: [rows, vocabulary_size].
        keys, values: [layers, kv_heads, rows, head_dim].
    """

    rows: Rows
    logits: Tensor
    keys: Tensor
    values: Tensor

    @property
    def numbers_a_row(self) -> int:
        return (self.logits.numel() + self.keys.numel() + self.values.numel()) // len(self.logits)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Passes of [1, total]: what they computed, and what each product made of the same rows."""

    total: int
    fed: _Fed
    products: tuple[Tensor, ...]


@torch.inference_mode()
def probe(passes: Passes, keep_total: int | None = None) -> ShapeClass:
    """Find the shapes that agree, and choose the class to keep.

    The rule: the class with the most of `SINGLE_SESSION_TOTALS`, on a tie the one of the smaller passes. No time
    decides, so that a verifier that starts again, or another one on a like machine, keeps the same class: see
    docs/adr/0003-row-class-by-rule.md. A class of fewer than `LEAST_ROWS` rows would rule speculation out and is not
    taken. Which larger totals of a class are found may vary with the time it takes; their bits do not.

    Args:
        keep_total: a row count whose class to keep, whatever the rule says.

    Raises:
        InexactDevice: no class has `LEAST_ROWS` rows, or none holds `keep_total`.
    """
    if keep_total and keep_total not in TOTALS:
        raise InexactDevice(f"passes of {keep_total} rows are never made; name one of {', '.join(map(str, TOTALS))}")
    generator = torch.Generator().manual_seed(_SEED)
    measured = _measure(passes, generator)
    groups = [
        group
        for group in _agreeing(measured)
        if group[-1].total >= LEAST_ROWS and (keep_total is None or keep_total in [one.total for one in group])
    ]
    try:
        for group in _by_preference(groups):
            shapes = _verify(passes, group, generator)
            if shapes and max(rows for _, rows in shapes) >= LEAST_ROWS:
                return ShapeClass(shapes)
    finally:
        passes.cache.keys.zero_()
        passes.cache.values.zero_()
    raise InexactDevice(
        f"no pass shapes {f'with {keep_total} rows ' if keep_total else ''}agree bit for bit on this device, so "
        "speculation would change the output; start with fast numerics, or change dtype, device or thread count"
    )


def _measure(passes: Passes, generator: torch.Generator) -> list[_Measured]:
    """Run every total twice as [1, total], and each product alone; keep totals that repeat their own bits."""
    most = min(TOTALS[-1], passes.chunk_tokens, passes.context_tokens // 2)
    rows = _scatter(passes, 0, min(passes.context_tokens - most, 300), most, generator)
    products = [(product, _telling_inputs(product, TOTALS[-1], generator)) for product in passes.products]
    first: dict[int, _Fed] = {}
    start = _now(passes)
    for total in TOTALS:
        if total > most or (total not in SINGLE_SESSION_TOTALS and _now(passes) - start > MEASURE_BUDGET_S / 2):
            break
        first[total] = _feed(passes, [_cut(rows, 0, total)], (1, total))[0]
    measured = []
    for total, fed in first.items():
        again = _feed(passes, [_cut(rows, 0, total)], (1, total))[0]
        if _same(fed, again, total):
            outputs = tuple(_in_groups(product, inputs, total) for product, inputs in products)
            measured.append(_Measured(total, fed, outputs))
    return measured


def _telling_inputs(product: Product, rows: int, generator: torch.Generator) -> Tensor:
    """Inputs whose products with some of the weights all but cancel, so that rounding differences show.

    In bfloat16 the final rounding hides one difference in many thousands; where large terms cancel, one in about 64
    is seen.

    Returns:
        [rows, inputs], in the weight's dtype.
    """
    outputs, inputs = product.weight.shape
    some = min(outputs, inputs // 2, _CANCELLED_OUTPUTS)
    chosen = torch.linspace(0, outputs - 1, some).long().to(product.weight.device)
    weight = product.weight[chosen].double()
    wanted = torch.zeros(some, dtype=torch.double, device=weight.device)
    if product.bias is not None:
        wanted -= product.bias[chosen].double()
    start = torch.randn(rows, inputs, generator=generator, dtype=torch.double).to(weight.device)
    cancelling: Tensor = start + (wanted - start @ weight.mT) @ torch.linalg.pinv(weight).mT
    return cancelling.to(product.weight.dtype)


def _in_groups(product: Product, inputs: Tensor, rows: int) -> Tensor:
    """[all rows, outputs]: the product of `inputs`, so many rows at a time, zeros behind the last."""
    padded = torch.nn.functional.pad(inputs, (0, 0, 0, -len(inputs) % rows))
    parts = [product.apply(group.unsqueeze(0))[0] for group in padded.split(rows)]
    return torch.cat(parts)[: len(inputs)]


def _now(passes: Passes) -> float:
    """Seconds; on the processor only those that this thread worked, so that its neighbours' work does not count."""
    if passes.cache.keys.is_cuda:
        torch.cuda.synchronize(passes.cache.keys.device)
        return time.perf_counter()
    return time.thread_time()


def _agreeing(measured: Sequence[_Measured]) -> list[list[_Measured]]:
    """Group what agrees on all the rows it shares with every member; groups and members by ascending total."""
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
    return _same(one.fed, other.fed, min(one.total, other.total)) and all(
        torch.equal(mine, yours) for mine, yours in zip(one.products, other.products, strict=True)
    )


def _by_preference(groups: Sequence[list[_Measured]]) -> list[list[_Measured]]:
    def preference(group: list[_Measured]) -> tuple[int, int]:
        return -sum(one.total in SINGLE_SESSION_TOTALS for one in group), group[0].total

    return sorted(groups, key=preference)


def _verify(passes: Passes, group: Sequence[_Measured], generator: torch.Generator) -> list[Shape]:
    """Keep the shapes of this group that compute every session as small passes of its own do.

    Tried with neighbouring and scattered slots, short and long sessions together, rows that start anywhere, and
    padding. Single-session shapes come first, then one of each session count, so that these are never lost to the
    time limit. Libraries change their code at a number of rows: where a single-session shape disagrees, totals
    farther off are not trusted either.
    """
    totals = [one.total for one in group]
    enough = min(max(_COMPARED_NUMBERS // group[0].fed.numbers_a_row, _COMPARED_ROWS[0]), _COMPARED_ROWS[1])
    session_counts = [count for count in _SESSIONS if count <= min(passes.cache.slots, totals[-1])]
    slots = [*range(max(session_counts, default=1)), passes.cache.scratch_slot]
    middle = min(totals, key=lambda total: (abs(total - _REFERENCE_TOTAL), total))
    many, few = (min(rows, passes.context_tokens // 2) for rows in (max(totals[-1], enough), _COMPARED_ROWS[0]))
    references = [
        _reference(passes, slot, place % 2 == 0, many if place < _LONG_REFERENCES else few, middle, generator)
        for place, slot in enumerate(slots)
    ]
    kept: list[Shape] = []
    lowest, highest = 0, totals[-1] + 1
    start = _now(passes)
    for number, shape in enumerate(_shapes(totals, session_counts)):
        if number >= len(totals) + len(session_counts) and _now(passes) - start > VERIFY_BUDGET_S:
            break
        sessions, total = shape[0], shape[0] * shape[1]
        if not lowest < total < highest:
            continue
        tried = references[:_LONG_REFERENCES] if sessions == 1 else references
        if _holds(passes, tried, shape, enough if sessions == 1 else _COMPARED_ROWS[0], generator):
            kept.append(shape)
        elif sessions == 1 and total < middle:
            lowest = total
        elif sessions == 1:
            highest = total
    return [shape for shape in kept if lowest < shape[0] * shape[1] < highest]


def _holds(
    passes: Passes, references: Sequence[_Fed], shape: Shape, enough_rows: int, generator: torch.Generator
) -> bool:
    """Try a shape until enough rows agreed, or one did not; by turns full on neighbours, and ragged on any slots."""
    sessions, _ = shape
    compared = 0
    for turn in itertools.count():
        order = torch.randperm(len(references), generator=generator)[:sessions].tolist()
        members = [references[place] for place in order] if turn % 2 else list(references[:sessions])
        rows = _compare(passes, members, shape, generator, ragged=turn % 2 == 1)
        if rows is None:
            return False
        compared += rows
        if turn % 2 and compared >= enough_rows:
            return True
    raise AssertionError("unreachable")


def _shapes(totals: Sequence[int], session_counts: Sequence[int]) -> list[Shape]:
    """Shapes of these totals: single sessions first, then for each session count its most useful one, and so on."""
    shapes = [
        [(sessions, rows) for rows in _ROWS_A_SESSION if sessions * rows in totals] for sessions in session_counts
    ]
    ranked = [(rank, shape) for column in shapes for rank, shape in enumerate(column)]
    return [(1, total) for total in totals] + [shape for _, shape in sorted(ranked)]


def _reference(
    passes: Passes, slot: int, starts_early: bool, rows: int, total: int, generator: torch.Generator
) -> _Fed:
    """Feed one session alone, in passes of [1, total]."""
    room = passes.context_tokens - rows
    low, high = (1, min(64, room)) if starts_early else (min(64, room - 1), room)
    position = int(torch.randint(low, high, (), generator=generator))
    whole = _scatter(passes, slot, position, rows, generator)
    parts = []
    for offset in range(0, rows, total):
        count = min(total, rows - offset)
        parts += _feed(passes, [_cut(whole, offset, count)], (1, total))
    return _Fed(
        whole,
        torch.cat([part.logits for part in parts]),
        torch.cat([part.keys for part in parts], dim=2),
        torch.cat([part.values for part in parts], dim=2),
    )


def _compare(
    passes: Passes, references: Sequence[_Fed], shape: Shape, generator: torch.Generator, *, ragged: bool
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
        expected.append(_part(reference, offset, count))
        batch.append(expected[-1].rows)
    fed = _feed(passes, batch, shape)
    for reference in references:
        _put_back(passes.cache, reference)
    if not all(_same(new, old, len(old.rows.token_ids)) for new, old in zip(fed, expected, strict=True)):
        return None
    return sum(len(member.token_ids) for member in batch)


def _scatter(passes: Passes, slot: int, position: int, rows: int, generator: torch.Generator) -> Rows:
    """Fill a slot's cells before `position` with random numbers, and draw tokens to feed from there."""
    for side in (passes.cache.keys, passes.cache.values):
        cells = side[:, slot, :, :position]
        cells.copy_(torch.randn(cells.shape, generator=generator))
    token_ids = torch.randint(0, passes.vocabulary_size, (rows,), generator=generator)
    return Rows(slot, position, tuple(token_ids.tolist()))


def _feed(passes: Passes, batch: Sequence[Rows], shape: Shape) -> list[_Fed]:
    logits = passes.run(batch, shape)
    fed = []
    for place, rows in enumerate(batch):
        cells = slice(rows.position, rows.position + len(rows.token_ids))
        keys, values = (side[:, rows.slot, :, cells].clone() for side in (passes.cache.keys, passes.cache.values))
        fed.append(_Fed(rows, logits[place, : len(rows.token_ids)].clone(), keys, values))
    return fed


def _put_back(cache: SlottedCache, fed: _Fed) -> None:
    cells = slice(fed.rows.position, fed.rows.position + len(fed.rows.token_ids))
    cache.keys[:, fed.rows.slot, :, cells] = fed.keys
    cache.values[:, fed.rows.slot, :, cells] = fed.values


def _cut(rows: Rows, offset: int, count: int) -> Rows:
    return Rows(rows.slot, rows.position + offset, rows.token_ids[offset : offset + count])


def _part(fed: _Fed, offset: int, count: int) -> _Fed:
    end = offset + count
    return _Fed(
        _cut(fed.rows, offset, count), fed.logits[offset:end], fed.keys[:, :, offset:end], fed.values[:, :, offset:end]
    )


def _same(one: _Fed, other: _Fed, rows: int) -> bool:
    """Whether the first `rows` rows agree in every bit of logits and cells."""
    return (
        torch.equal(one.logits[:rows], other.logits[:rows])
        and torch.equal(one.keys[:, :, :rows], other.keys[:, :, :rows])
        and torch.equal(one.values[:, :, :rows], other.values[:, :, :rows])
    )
