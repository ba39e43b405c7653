"""How much load there is at a time, and when requests are due."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Level:
    """One load: as many users as `concurrency` (closed loop), or `rate` requests a second (open loop).

    In a closed loop a user sends the next request when the last one has ended. In an open loop requests are due at
    random times, whatever has ended.
    """

    concurrency: int | None = None
    rate: float | None = None

    @property
    def amount(self) -> float:
        """The level as a number, for axes and ratios."""
        return self.concurrency if self.concurrency is not None else self.rate or 0.0

    def __str__(self) -> str:
        return f"{self.concurrency} at once" if self.concurrency is not None else f"{self.rate:g} a second"


def rotated(arms: Sequence[Item], round_number: int) -> list[Item]:
    """The arms in the order of this round: over as many rounds as arms, each is first once."""
    first = round_number % len(arms)
    return [*arms[first:], *arms[:first]]


def user_delays(users: int, ramp_s: float) -> list[float]:
    """Seconds after which each user sends the first request: spread evenly over the ramp."""
    return [ramp_s * user / users for user in range(users)]


def poisson_arrivals(rate: float, ramp_s: float, seed: str) -> Iterator[float]:
    """Seconds at which requests are due, without end: a Poisson process.

    Args:
        rate: requests a second.
        ramp_s: the rate grows from 0 in a straight line for this long.
        seed: equal seeds give equal times.
    """
    generator = random.Random(seed)
    expected, in_ramp = 0.0, rate * ramp_s / 2
    while True:
        # The number of requests expected until the next one; then the time at which that many are expected.
        expected += generator.expovariate(1.0)
        yield sqrt(2 * expected * ramp_s / rate) if expected < in_ramp else ramp_s / 2 + expected / rate
