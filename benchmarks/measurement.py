"""One timed completion, and what a set of them says."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Measurement:
    """One completion by one arm.

    Attributes:
        token_ids: generated, prompt excluded.
        duration_s: from the request to the last token.
        counts: what else the arm knows, by name.
    """

    token_ids: tuple[int, ...]
    duration_s: float
    counts: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return len(self.token_ids) / self.duration_s


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


_RESAMPLES = 2_000


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The median of values, and where 95 of 100 resamples put it.

    Source: Efron 1979 (percentile bootstrap).
    """
    generator = random.Random(seed)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return Interval(statistics.median(values), medians[_RESAMPLES // 40], medians[-_RESAMPLES // 40 - 1])


def median_speed(measurements: Sequence[Measurement]) -> float:
    """The middle completion's tokens per second."""
    return statistics.median(each.tokens_per_second for each in measurements)


def speed_ratio(numerator: Sequence[Measurement], denominator: Sequence[Measurement]) -> Interval:
    """How much faster one arm is than another, prompt by prompt.

    Args:
        numerator, denominator: of the same prompts in the same order.
    """
    pairs = zip(numerator, denominator, strict=True)
    return median_interval([one.tokens_per_second / other.tokens_per_second for one, other in pairs])
