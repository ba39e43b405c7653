"""Coordinators that share verifiers: together they run no more than fit, and nobody waits while there is room."""

import asyncio
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from coordinator.admission import Admission
from coordinator.sharing import Demand, Sharing, fair_shares
from tests.unit.coordinator.toy import asynchronous

WANTED = st.lists(st.integers(0, 20), min_size=4, max_size=4)


class Replica:
    """A coordinator of a fleet, and how many requests it has started."""

    def __init__(self, room: int) -> None:
        self.admission = Admission(max_waiting=100)
        self.admission.resize(room)
        self.admission.grant(0)
        self.leave = asyncio.Event()
        self.started = 0

    async def demand(self) -> Demand:
        return self.admission.demand()

    async def grant(self, share: int) -> int:
        return self.admission.grant(share)

    async def ask(self) -> None:
        async with self.admission.place():
            self.started += 1
            await self.leave.wait()


@given(WANTED, st.integers(0, 40), st.permutations(range(4)))
def test_shares_use_the_room_and_nobody_gets_more_than_one_who_wants_more(
    wanted: list[int], room: int, order: list[int]
) -> None:
    shares = fair_shares(wanted, room, order)
    assert sum(shares) == room
    for share, want in zip(shares, wanted, strict=True):
        # One who gets less than it wants gets as much as anybody, but for what cannot be divided.
        assert share >= min(want, max(shares) - 1)


@given(st.integers(0, 5), st.lists(st.integers(0, 8), min_size=2, max_size=3), st.lists(st.integers(0, 2), max_size=12))
def test_together_no_more_run_than_there_is_room_for_and_nobody_waits_while_there_is(
    room: int, asked: list[int], leaving: list[int]
) -> None:
    @asynchronous
    async def scenario() -> None:
        replicas = [Replica(room) for _ in asked]
        sharing = Sharing(replicas)
        tasks = list[list[asyncio.Task[None]]]()
        for each, count in zip(replicas, asked, strict=True):
            tasks.append([asyncio.create_task(each.ask()) for _ in range(count)])
        for index in [*leaving, *leaving]:
            await sharing.share()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sum(each.admission.running for each in replicas) <= room
            for task in tasks[index % len(tasks)][:2]:
                task.cancel()
        for _ in range(4):
            await asyncio.sleep(0)
            await sharing.share()
        running = sum(each.admission.running for each in replicas)
        assert running == room or not any(each.admission.waiting for each in replicas)
        for each in replicas:
            each.leave.set()
        for _ in range(60):
            await asyncio.sleep(0)
            await sharing.share()
        assert room == 0 or not any(each.admission.waiting for each in replicas)
        for task in chain(*tasks):
            task.cancel()
        await asyncio.gather(*chain(*tasks), return_exceptions=True)

    scenario()


@asynchronous
async def test_a_single_place_goes_round() -> None:
    replicas = [Replica(1), Replica(1)]
    sharing = Sharing(replicas)
    tasks = list[asyncio.Task[None]]()
    for _ in range(20):
        tasks += [asyncio.create_task(each.ask()) for each in replicas]
        await asyncio.sleep(0)
        await sharing.share()
        for each in replicas:
            each.leave.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for each in replicas:
            each.leave.clear()
    assert min(each.started for each in replicas) >= 5
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
