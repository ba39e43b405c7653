import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.admission import Admission, Claim
from sybil_engine.core.errors import Exhausted
from tests.unit.coordinator.toy import asynchronous

ANYBODY = Claim()


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


async def hold(admission: Admission, log: list[int], number: int, leave: asyncio.Event, claim: Claim = ANYBODY) -> None:
    async with admission.place(claim):
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
async def test_a_client_that_fills_the_queue_keeps_nobody_out() -> None:
    admission, log, leave = Admission(max_waiting=3), list[int](), asyncio.Event()
    admission.resize(1)
    flood = [asyncio.create_task(hold(admission, log, number, leave, Claim("a"))) for number in range(4)]
    await rounds()
    other = asyncio.create_task(hold(admission, log, 4, leave, Claim("b")))
    urgent = asyncio.create_task(hold(admission, log, 5, leave, Claim("a", priority=1)))
    await rounds()
    assert [task.done() for task in flood] == [False, False, True, True]
    leave.set()
    await asyncio.gather(*flood, other, urgent, return_exceptions=True)
    assert log == [0, 5, 4, 1]


@asynchronous
async def test_a_refusal_says_when_to_try_again() -> None:
    admission = Admission(max_waiting=0)
    with pytest.raises(Exhausted) as refusal:
        async with admission.place():
            pass
    assert refusal.value.retry_s == 1


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "ask", "leave", "cancel", "resize"]), st.integers(0, 9)), max_size=20)
)
def test_no_more_run_than_there_is_room_for_and_no_more_wait_than_may(actions: list[tuple[str, int]]) -> None:
    @asynchronous
    async def scenario() -> None:
        admission, tasks, leaves = Admission(max_waiting=3), list[asyncio.Task[None]](), list[asyncio.Event]()
        admission.resize(room := 2)
        for action, number in actions:
            before = admission.running
            if action == "ask":
                leaves.append(asyncio.Event())
                claim = Claim("ab"[number % 2], priority=number % 3)
                tasks.append(asyncio.create_task(hold(admission, [], number, leaves[-1], claim)))
            elif action == "resize":
                admission.resize(room := number % 4)
            elif tasks and action == "leave":
                leaves[number % len(tasks)].set()
            elif tasks:
                tasks[number % len(tasks)].cancel()
            await rounds()
            assert admission.running <= max(room, before)
            assert admission.waiting <= 3
            assert not admission.waiting or admission.running >= room
        for leave in leaves:
            leave.set()
        admission.resize(1)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.running, admission.waiting) == (0, 0)

    scenario()


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
