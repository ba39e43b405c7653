import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.admission import Admission
from sybil_engine.core.errors import Exhausted
from tests.unit.coordinator.toy import asynchronous


async def rounds() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def places_free(admission: Admission, most: int) -> int:
    """How many requests start at once, of one more than there can be places."""
    log, leave = list[int](), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, log, number, leave)) for number in range(most + 1)]
    await rounds()
    started = len(log)
    leave.set()
    await asyncio.gather(*tasks)
    return started


async def hold(admission: Admission, log: list[int], number: int, leave: asyncio.Event) -> None:
    async with admission.place():
        log.append(number)
        await leave.wait()


@asynchronous
async def test_requests_start_in_the_order_in_which_they_came() -> None:
    admission, log = Admission(max_waiting=8), list[int]()
    admission.resize(1)
    leaves = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(hold(admission, log, number, leaves[number])) for number in range(4)]
    for number in range(4):
        await rounds()
        assert log == list(range(number + 1))
        leaves[number].set()
    await asyncio.gather(*tasks)
    assert await places_free(admission, 1) == 1


@asynchronous
async def test_beyond_the_queue_requests_are_turned_away() -> None:
    admission, leave = Admission(max_waiting=1), asyncio.Event()
    admission.resize(1)
    tasks = [asyncio.create_task(hold(admission, [], number, leave)) for number in range(2)]
    await rounds()
    with pytest.raises(Exhausted, match="1 requests are running and 1 are waiting"):
        async with admission.place():
            pass
    leave.set()
    await asyncio.gather(*tasks)


@asynchronous
async def test_more_slots_admit_those_that_wait() -> None:
    admission, log, leave = Admission(max_waiting=8), list[int](), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, log, number, leave)) for number in range(3)]
    await rounds()
    assert log == []
    admission.resize(2)
    await rounds()
    assert log == [0, 1]
    leave.set()
    await asyncio.gather(*tasks)


@given(st.data())
def test_after_any_mix_of_cancellations_every_place_is_free(data: st.DataObject) -> None:
    @asynchronous
    async def scenario() -> None:
        admission, log, leave = Admission(max_waiting=10), list[int](), asyncio.Event()
        admission.resize(2)
        tasks = [asyncio.create_task(hold(admission, log, number, leave)) for number in range(6)]
        for number in data.draw(st.permutations(range(6)))[:4]:
            if data.draw(st.booleans()):
                await asyncio.sleep(0)
            tasks[number].cancel()
        await rounds()
        left = [number for number, task in enumerate(tasks) if not task.done()]
        assert [number for number in log if number in left] == left[:2]
        leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await places_free(admission, 2) == 2

    scenario()
