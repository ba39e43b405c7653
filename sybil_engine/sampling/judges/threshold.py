"""A probability threshold: any token that the target holds to be likely enough will do. Lossy."""

from dataclasses import dataclass

from torch import Tensor

from sybil_engine.sampling.judges.lenient import Lenient, chosen


@dataclass(frozen=True, slots=True)
class Threshold(Lenient):
    """Accepts a token of at least this probability.

    Args:
        least: in (0, 1].
    """

    least: float

    def accepts(self, probabilities: Tensor, drafted: Tensor) -> Tensor:
        """See `Lenient.accepts`."""
        return chosen(probabilities, drafted) >= self.least
