"""No two sessions share a page but for the same prompt tokens, and every page is given back."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.errors import Exhausted
from sybil_engine.models.pages import PagePool

PAGE = 4


def pool_of(pages: int = 8, sessions: int = 6) -> PagePool:
    return PagePool(pages, 10 * PAGE, sessions, page_cells=PAGE)


def fed(pool: PagePool, prompt: tuple[int, ...]) -> int:
    """A session that has fed a prompt, as far as pages of earlier ones don't hold it; its slot."""
    slot = pool.allocate()
    reused = pool.reuse(slot, prompt)
    assert pool.reserve(slot, range(len(prompt)))
    pool.share(slot, reused, prompt[reused:])
    return slot


def places(pool: PagePool, slot: int, cells: range) -> list[int]:
    return [int(place) for place in pool.place(slot, cells)]


def test_reserving_takes_all_pages_or_none() -> None:
    pool = pool_of(pages=3)
    first, second = pool.allocate(), pool.allocate()
    assert pool.reserve(first, range(2 * PAGE))
    assert pool.needed(second, (), 2 * PAGE) == 2
    assert not pool.reserve(second, range(2 * PAGE))
    assert pool.room == 1
    assert pool.reserve(second, range(PAGE))
    assert not set(places(pool, first, range(2 * PAGE))) & set(places(pool, second, range(PAGE)))


def test_cells_far_apart_take_only_their_own_pages() -> None:
    pool = pool_of()
    slot = pool.allocate()
    assert pool.reserve(slot, range(1))
    assert pool.reserve(slot, range(8 * PAGE, 8 * PAGE + 2))
    assert pool.room == 6
    assert places(pool, slot, range(8 * PAGE, 8 * PAGE + 2))[0] % PAGE == 0


def test_a_prompt_that_begins_alike_shares_whole_pages_and_no_others() -> None:
    pool = pool_of()
    first = fed(pool, (1, 2, 3, 4, 5, 6, 7, 8, 9))
    second = pool.allocate()
    assert pool.reuse(second, (1, 2, 3, 4, 5, 6, 7, 0, 9)) == PAGE
    third = pool.allocate()
    assert pool.reuse(third, (0, 2, 3, 4, 5, 6, 7, 8)) == 0, "the same tokens after others are another page"
    assert places(pool, first, range(PAGE)) == places(pool, second, range(PAGE))
    assert pool.counts.shared == 1


def test_pages_of_ended_sessions_are_kept_until_the_room_is_needed_the_oldest_first() -> None:
    pool = pool_of(pages=4)
    old, new = (1,) * 2 * PAGE, (2,) * 2 * PAGE
    for prompt in (old, new):
        pool.release(fed(pool, prompt))
    assert pool.room == 4
    taker = pool.allocate()
    assert pool.reserve(taker, range(PAGE))
    reader = pool.allocate()
    assert pool.reuse(reader, old) == PAGE, "the end of a prompt goes before its beginning"
    assert pool.reuse(pool.allocate(), new) == 2 * PAGE


def test_a_used_page_is_never_taken() -> None:
    pool = pool_of(pages=2)
    pool.release(fed(pool, (1,) * 2 * PAGE))
    reader = pool.allocate()
    pool.reuse(reader, (1,) * 2 * PAGE)
    assert pool.room == 0
    assert not pool.reserve(pool.allocate(), range(1))


def test_of_two_sessions_that_fed_the_same_at_once_one_page_is_given_back() -> None:
    pool = pool_of()
    prompt = (1, 2, 3, 4)
    slots = [pool.allocate(), pool.allocate()]
    for slot in slots:
        assert pool.reuse(slot, prompt) == 0
        assert pool.reserve(slot, range(PAGE))
    assert pool.room == 6
    for slot in slots:
        pool.share(slot, 0, prompt)
    assert pool.room == 7
    assert places(pool, slots[0], range(PAGE)) == places(pool, slots[1], range(PAGE))


def test_more_sessions_than_may_be_are_refused_and_a_slot_is_released_once() -> None:
    pool = pool_of(sessions=1)
    slot = pool.allocate()
    with pytest.raises(Exhausted, match="--max-sessions"):
        pool.allocate()
    pool.release(slot)
    with pytest.raises(ValueError, match="not taken"):
        pool.release(slot)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_whatever_sessions_do_pages_have_one_owner_and_none_is_lost(seed: int) -> None:
    rng, pool = random.Random(seed), pool_of(pages=9, sessions=5)
    # What each session has, and the tokens that whoever filled a cell put there.
    running: dict[int, tuple[int, ...]] = {}
    written: dict[int, tuple[int, ...]] = {}
    for _ in range(60):
        if running and rng.random() < 0.4:
            slot = rng.choice(list(running))
            del running[slot]
            pool.release(slot)
        elif len(running) < 5:
            prompt, slot = tuple(rng.randrange(2) for _ in range(rng.randrange(1, 3 * PAGE))), pool.allocate()
            reused = pool.reuse(slot, prompt)
            if not pool.reserve(slot, range(len(prompt) + 2)):
                pool.release(slot)
                continue
            running[slot] = prompt
            for end in range(reused, len(prompt)):
                written[int(pool.place(slot, end))] = prompt[: end + 1]
            pool.share(slot, reused, prompt[reused:])
        for slot, prompt in running.items():
            whole = len(prompt) - len(prompt) % PAGE
            held = [written[place] for place in places(pool, slot, range(whole))]
            assert held == [prompt[: end + 1] for end in range(whole)], "a page whose tokens another session replaced"
        own = [set(places(pool, slot, range(len(p) - len(p) % PAGE, len(p) + 2))) for slot, p in running.items()]
        assert sum(map(len, own)) == len(set().union(*own)), "two sessions write to one cell"
        assert pool.counts.used + pool.counts.free == 9
    for slot in running:
        pool.release(slot)
    assert (pool.room, pool.open_slots) == (9, 0)
    assert np.all(pool.table(pool.allocate(), 10) == -1)
