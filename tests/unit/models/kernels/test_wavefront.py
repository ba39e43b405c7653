"""Chunks fed at the same time go through the layers one after the other."""

import threading
import time

import pytest

from sybil_engine.models.cache import Turn
from sybil_engine.models.kernels.wavefront import Wavefront

LAYERS = 4


def test_a_chunk_sees_a_layer_only_after_all_chunks_before_it_have_written_it() -> None:
    written: list[tuple[int, int]] = []
    lock = threading.Lock()

    def feed_chunk(place: int, turn: Turn) -> None:
        for layer in range(LAYERS):
            # The earlier a chunk, the slower: the others would overtake it.
            time.sleep(0.002 * (3 - place))
            with lock:
                written.append((place, layer))
            turn.take(layer)
            with lock:
                assert {(before, layer) for before in range(place)} <= set(written)

    Wavefront(3, LAYERS).feed(range(3), feed_chunk)
    assert len(written) == 3 * LAYERS


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_chunk_that_fails_holds_up_nobody_and_is_reported(broken: int) -> None:
    ended: list[int] = []

    def feed_chunk(place: int, turn: Turn) -> None:
        if place == broken:
            raise RuntimeError("no memory")
        for layer in range(LAYERS):
            turn.take(layer)
        ended.append(place)

    with pytest.raises(RuntimeError, match="no memory"):
        Wavefront(3, LAYERS).feed(range(3), feed_chunk)
    assert sorted(ended) == [place for place in range(3) if place != broken]
