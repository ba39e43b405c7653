"""The number of processor threads of a pass, and whether two numbers compute the same bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from sybil_engine.models.numerics.fed_rows import ProbedRunner, feed_rows, probed_slots, scatter
from sybil_engine.models.numerics.row_class import RowClass
from sybil_engine.models.rows import Rows

_SEED = 0x7EAD


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Let torch use this many threads on the calling thread until the block is left."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def threads_agree(runner: ProbedRunner, rows: RowClass, threads: int) -> bool:
    """Whether passes of every row count compute with `threads` threads the bits that they compute now."""
    if threads == torch.get_num_threads():
        return True
    generator = torch.Generator().manual_seed(_SEED)
    with probed_slots(runner, 1) as ((slot,), cells):
        text = scatter(runner, slot, cells - rows.most_rows, rows.most_rows, generator)
        return all(_agree(runner, text, total, threads, generator) for total in rows.totals)


def _agree(runner: ProbedRunner, text: Rows, total: int, threads: int, generator: torch.Generator) -> bool:
    """Compare passes of one row count.

    Args:
        text: at its last position; its rows are fed from any position up to that.
    """
    position = int(torch.randint(0, text.position + 1, (), generator=generator))
    batch = [replace(text.part(0, total), position=position)]
    (expected,) = feed_rows(runner, batch, total)
    with threads_set(threads):
        (again,) = feed_rows(runner, batch, total)
    return expected.agrees(again, total)
