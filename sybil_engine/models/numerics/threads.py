"""The number of processor threads of a pass, and whether two numbers compute the same bits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from sybil_engine.models.numerics.fed_rows import ProbedRunner, feed_rows, scatter
from sybil_engine.models.numerics.shape_class import ShapeClass
from sybil_engine.models.rows import Rows, Shape

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
def threads_agree(runner: ProbedRunner, shapes: ShapeClass, threads: int) -> bool:
    """Whether passes of every shape compute with `threads` threads the bits that they compute now."""
    if threads == torch.get_num_threads():
        return True
    generator = torch.Generator().manual_seed(_SEED)
    last = runner.context_tokens - shapes.most_rows
    slots = range(max(sessions for sessions, _ in shapes.shapes))
    texts = [scatter(runner, slot, last, shapes.most_rows, generator) for slot in slots]
    try:
        return all(_agree(runner, texts, shape, threads, generator) for shape in shapes.shapes)
    finally:
        runner.cache.keys.zero_()
        runner.cache.values.zero_()


def _agree(runner: ProbedRunner, texts: Sequence[Rows], shape: Shape, threads: int, generator: torch.Generator) -> bool:
    """Compare passes of one shape.

    Args:
        texts: one for each slot, at its last position; its rows are fed from any position up to that.
    """
    sessions, rows = shape
    positions = torch.randint(0, texts[0].position + 1, (sessions,), generator=generator).tolist()
    batch = [replace(text.part(0, rows), position=at) for text, at in zip(texts, positions, strict=False)]
    expected = feed_rows(runner, batch, shape)
    with threads_set(threads):
        again = feed_rows(runner, batch, shape)
    return all(one.agrees(other, rows) for one, other in zip(expected, again, strict=True))
