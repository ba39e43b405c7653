"""One timed completion, and figures of a set of them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reporting.intervals import median_interval


@dataclass(frozen=True, slots=True)
class Measurement:
    """One completion by one arm.

    Attributes:
        token_ids: generated, prompt excluded.
        duration_s: from the request to the last token.
        counts: the arm's other figures, by name.
    """

    token_ids: tuple[int, ...]
    duration_s: float
    counts: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return len(self.token_ids) / self.duration_s


Measured = Mapping[str, Sequence[Measurement]]
"""By arm, one measurement a task, in order."""


def median_speed(measurements: Sequence[Measurement]) -> float:
    """The median completion's tokens per second."""
    return statistics.median(each.tokens_per_second for each in measurements)


def speed_ratio(numerator: Sequence[Measurement], denominator: Sequence[Measurement]) -> dict[str, float]:
    """How much faster one arm is than another, prompt by prompt.

    Args:
        numerator, denominator: of the same prompts in the same order.
    """
    pairs = zip(numerator, denominator, strict=True)
    return median_interval([one.tokens_per_second / other.tokens_per_second for one, other in pairs])
