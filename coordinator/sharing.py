"""How coordinators that use the same verifiers share their room, so that together they never admit more than fit."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Demand:
    """What one coordinator has and wants.

    Attributes:
        share: how many requests it may run.
        running, waiting: how many it has.
        room: how many all live verifiers can hold, as it sees them.
    """

    share: int = 0
    running: int = 0
    waiting: int = 0
    room: int = 0


class Sharer(Protocol):
    """A coordinator that runs no more than its share."""

    async def demand(self) -> Demand:
        """What it has and wants; nothing if it does not run."""

    async def grant(self, share: int) -> int:
        """Set its share. Returns how many places it holds from now on: more than its share while more requests run."""


class Sharing:
    """Gives each sharer a share of the room, and again and again another one as their demands change."""

    def __init__(self, sharers: Sequence[Sharer]) -> None:
        self._sharers = sharers
        # Who got more least recently comes first.
        self._order = list(range(len(sharers)))

    async def keep(self, pause_s: float) -> None:
        """Share until cancelled."""
        while True:
            await self.share()
            await asyncio.sleep(pause_s)

    async def share(self) -> None:
        """Share once. What one has to give up is given to others once it is free."""
        demands = await asyncio.gather(*(each.demand() for each in self._sharers))
        room = max(demand.room for demand in demands)
        wanted = [demand.running + demand.waiting for demand in demands]
        shares = fair_shares(wanted, room, self._order)
        held = [max(demand.share, demand.running) for demand in demands]
        for index, share in enumerate(shares):
            if share < demands[index].share:
                held[index] = await self._sharers[index].grant(share)
        for index in list(self._order):
            grown = min(shares[index], held[index] + room - sum(held))
            if grown > held[index]:
                held[index] = await self._sharers[index].grant(grown)
                self._order.remove(index)
                self._order.append(index)


def fair_shares(wanted: Sequence[int], room: int, order: Sequence[int]) -> list[int]:
    """How many places each gets: as many as it wants, or as many as those who want more; what is left, all alike.

    Args:
        order: of all, by index: who comes first gets what cannot be divided evenly.
    """
    shares = [0] * len(wanted)
    left = room
    while left > 0 and (short := [index for index in order if shares[index] < wanted[index]]):
        each = max(left // len(short), 1)
        for index in short[:left]:
            given = min(each, wanted[index] - shares[index])
            shares[index] += given
            left -= given
    each, odd = divmod(left, len(wanted))
    return [share + each + (index < odd) for index, share in enumerate(shares)]
