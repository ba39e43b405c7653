"""Which requests start, which wait, and which are refused."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from heapq import heapify, heapreplace

from coordinator.line import Line
from coordinator.sharing import Demand
from coordinator.throughput import Throughput
from sybil_engine.core.errors import Exhausted

# A request starts or begins to wait only if it would be in time even if it took this much longer than predicted.
_MARGIN = 1.1
# Predictions for waiting requests are renewed this often.
_RENEW_S = 0.1
_LEAST_RETRY_S, _MOST_RETRY_S = 0.1, 60.0
# What to wait before another try while nothing is measured.
_UNMEASURED_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request needs.

    Attributes:
        client: who sent it.
        priority: higher ones start first.
        prompt_tokens: to feed.
        max_tokens: the most it may generate.
        deadline_s: when it must be done, by `time.monotonic`.
    """

    client: str = ""
    priority: int = 0
    prompt_tokens: int = 0
    max_tokens: int = 0
    deadline_s: float = math.inf


@dataclass(eq=False, slots=True)
class Place:
    """One request's place: in the queue at first, then among those that run.

    Attributes:
        turn: done when it starts, or failed when it is refused.
        prompt_tokens: those that are not fed yet: all of them until the first token comes.
        max_tokens: the most that are still to be generated.
        accepted: whether it was found to be in time when it came.
    """

    claim: Claim
    turn: "asyncio.Future[None]"
    prompt_tokens: int
    max_tokens: int
    accepted: bool = False

    @property
    def client(self) -> str:
        return self.claim.client

    @property
    def priority(self) -> int:
        return self.claim.priority

    def late(self, end_s: float) -> bool:
        """Whether its deadline comes before this time."""
        return end_s > self.claim.deadline_s


class Admission:
    """Lets requests run, at most as many as there is room for; a bounded number of others waits in a `Line`.

    What has a deadline runs or waits only while it can be met at the measured speed. So a request starts only if that
    makes no running one late: of too many at once, all would be late. The next in line waits for that, and the others
    after it, so that nobody is overtaken for ever. While nothing is measured, everything is taken to be in time.
    """

    def __init__(self, max_waiting: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._max_waiting = max_waiting
        self._clock_s = clock_s
        self._room = 0
        # None: nobody else uses the same room.
        self._share: int | None = None
        self._throughput = Throughput(clock_s)
        self._running: dict[Place, None] = {}
        self._line: Line[Place] = Line()
        self._renewal: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Requests that hold a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._line)

    def resize(self, room: int) -> None:
        """Set how many requests there is room for; those that are running continue."""
        self._room = room
        self._revise()

    def grant(self, share: int) -> int:
        """Set how many of them may run here, since others use the same room. Returns how many places are held now."""
        self._share = share
        self._revise()
        return max(share, self.running)

    def demand(self) -> Demand:
        """What is used, and wanted."""
        share = self._room if self._share is None else self._share
        return Demand(share, self.running, self.waiting, self._room)

    @asynccontextmanager
    async def place(self, claim: Claim = Claim()) -> AsyncIterator[Callable[[int], None]]:
        """Hold a place while the block runs; wait if there is none. Yields a function that counts generated tokens.

        Raises:
            Exhausted: too many requests wait already, or it could not be done before its deadline.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = Place(claim, turn, claim.prompt_tokens, claim.max_tokens)
        self._line.add(place)
        self._revise()
        try:
            await turn
            yield lambda tokens: self._deliver(place, tokens)
        finally:
            self._line.discard(place)
            if place in self._running:
                del self._running[place]
                self._throughput.run(self.running)
            self._revise()

    def _deliver(self, place: Place, tokens: int) -> None:
        self._throughput.feed(place.prompt_tokens)
        self._throughput.deliver(tokens)
        place.prompt_tokens, place.max_tokens = 0, max(place.max_tokens - tokens, 0)

    def _revise(self) -> None:
        """Start what can start now, and refuse what waits in vain."""
        self._start()
        while self._refuse_late():
            self._start()
        while self.waiting > self._max_waiting:
            *_, last = self._line
            self._refuse_crowded(last)
        self._keep_renewing()

    def _start(self) -> None:
        room = self._room if self._share is None else min(self._room, self._share)
        while self._line and self.running < room and self._fits(place := next(iter(self._line))):
            self._line.start(place)
            self._running[place] = None
            self._throughput.run(self.running)
            # One that was cancelled just now gives its place back by itself.
            if not place.turn.done():
                place.turn.set_result(None)

    def _fits(self, place: Place) -> bool:
        """Whether a request that starts now is in time, and makes no running one late that is not lost already."""
        if not self._running:
            return not self._late_ones([place], 1.0)
        lost = self._late_ones(self._running, 1 / _MARGIN)
        return self._late_ones([*self._running, place], _MARGIN) <= lost

    def _late_ones(self, places: Collection[Place], margin: float) -> set[Place]:
        """Which of these are late if they run together and take `margin` times as long as predicted."""
        if all(math.isinf(each.claim.deadline_s) for each in places):
            return set()
        now_s, ends_s = self._clock_s(), self._ends_s(places)
        return {each for each, end_s in zip(places, ends_s, strict=True) if each.late(now_s + margin * end_s)}

    def _ends_s(self, places: Collection[Place]) -> list[float]:
        """Seconds until each of these ends if they run together. All wait for prompts that are not fed yet."""
        prompts_s = self._throughput.prompt_s(sum(each.prompt_tokens for each in places))
        return [prompts_s + end_s for end_s in self._throughput.ends_s([each.max_tokens for each in places])]

    def _refuse_late(self) -> bool:
        """Refuse waiting requests that would be late if each started as soon as one before it has ended."""
        if all(math.isinf(each.claim.deadline_s) for each in self._line):
            return False
        now_s, before = self._clock_s(), self.waiting
        free_s = self._ends_s(self._running) or [0.0]
        heapify(free_s)
        together = len(free_s)
        pace_s = self._throughput.pace_s(together)
        for place in list(self._line):
            # Its prompt holds up all that run.
            prompt_s = together * self._throughput.prompt_s(place.prompt_tokens)
            end_s = free_s[0] + prompt_s + place.max_tokens * pace_s
            if place.late(now_s + end_s * (1.0 if place.accepted else _MARGIN)):
                self._refuse_as_late(place, end_s)
            else:
                place.accepted = True
                heapreplace(free_s, end_s)
        return self.waiting < before

    def _refuse_as_late(self, place: Place, end_s: float) -> None:
        left_s = place.claim.deadline_s - self._clock_s()
        self._refuse(
            place,
            f"the request would take about {end_s:.1f} s, since {self.running} requests are running and "
            f"{self.waiting - 1} are waiting, but its deadline is in {left_s:.1f} s; allow more time, ask for fewer "
            "tokens, or",
            end_s - left_s,
        )

    def _refuse_crowded(self, place: Place) -> None:
        self._refuse(
            place,
            f"{self.running} requests are running and {self.waiting - 1} are waiting, as many as may; raise "
            "--max-waiting, or",
            min(self._ends_s(self._running), default=0.0) or _UNMEASURED_RETRY_S,
        )

    def _refuse(self, place: Place, reason: str, retry_s: float) -> None:
        self._line.discard(place)
        retry_s = min(max(retry_s, _LEAST_RETRY_S), _MOST_RETRY_S)
        if not place.turn.done():
            place.turn.set_exception(Exhausted(f"{reason} try again in {retry_s:.1f} s", retry_s))

    def _keep_renewing(self) -> None:
        """While requests with deadlines wait, look again soon: predictions change."""
        if self._renewal:
            self._renewal.cancel()
            self._renewal = None
        if not all(math.isinf(each.claim.deadline_s) for each in self._line):
            self._renewal = asyncio.get_running_loop().call_later(_RENEW_S, self._revise)
