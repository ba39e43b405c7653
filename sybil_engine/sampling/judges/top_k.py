"""Top-k membership: any of the target's few likeliest tokens will do. Lossy."""

from dataclasses import dataclass

from torch import Tensor

from sybil_engine.sampling.judges.lenient import Lenient, chosen


@dataclass(frozen=True, slots=True)
class TopK(Lenient):
    """Accepts a token if fewer than k others are likelier.

    Args:
        k: at least 1; 1 accepts the target's most likely token.
    """

    k: int

    def accepts(self, probabilities: Tensor, drafted: Tensor) -> Tensor:
        """See `Lenient.accepts`."""
        own = chosen(probabilities, drafted)
        return ((probabilities > own.unsqueeze(-1)).sum(dim=-1) < self.k) & (own > 0)
