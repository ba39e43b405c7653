"""Chunks of one prompt fed at the same time, each on its own thread, one layer after the chunk before it.

A chunk needs the cells of earlier chunks layer by layer, not all at once. So two threads halve the time of a prompt
without changing the shape of any product. If there is no second core after all, the threads take turns; two threads
inside one product would wait for each other at every product.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from sybil_engine.models.cache import Turn

_Chunk = TypeVar("_Chunk")


class _ChunkTurn:
    """A chunk's place in the wavefront."""

    def __init__(self, before: "_ChunkTurn | None", layers: int) -> None:
        self._before = before
        self._taken = [threading.Event() for _ in range(layers)]

    def take(self, layer: int) -> None:
        """See `cache.Turn`."""
        if self._before:
            self._before._taken[layer].wait()
        self._taken[layer].set()

    def give_up(self) -> None:
        """Let later chunks continue, even if this one has failed."""
        for taken in self._taken:
            taken.set()


class Wavefront:
    """Feeds chunks.

    Args:
        lanes: chunks that are fed at the same time.
        layers: of the model.
    """

    def __init__(self, lanes: int, layers: int) -> None:
        self._layers = layers
        # torch's number of threads for a product is set for each thread.
        threads = torch.get_num_threads()
        self._others = ThreadPoolExecutor(max(1, lanes - 1), "prefill", torch.set_num_threads, (threads,))

    def feed(self, chunks: Sequence[_Chunk], feed_chunk: Callable[[_Chunk, Turn], None]) -> None:
        """Feed chunks in order; those beyond the lanes wait for a free one.

        Args:
            feed_chunk: takes its turn at every layer.

        Raises:
            The error of the first chunk that failed, once all have ended.
        """
        turns: list[_ChunkTurn] = []
        for _ in chunks:
            turns.append(_ChunkTurn(turns[-1] if turns else None, self._layers))

        def feed_one(place: int) -> None:
            try:
                feed_chunk(chunks[place], turns[place])
            finally:
                turns[place].give_up()

        ahead = [self._others.submit(feed_one, place) for place in range(1, len(chunks))]
        try:
            feed_one(0)
        finally:
            wait(ahead)
        for each in ahead:
            each.result()
