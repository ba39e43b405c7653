"""Typical acceptance: where the target is unsure, less likely tokens will do. Lossy."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sybil_engine.sampling.judges.lenient import Lenient, chosen


@dataclass(frozen=True, slots=True)
class Typical(Lenient):
    """Accepts a token of probability above min(epsilon, sqrt(epsilon) * exp(-entropy)).

    Args:
        epsilon: the least probability that is ever demanded, in (0, 1].

    Source: Medusa (Cai et al. 2024), with its delta = sqrt(epsilon).
    """

    epsilon: float

    def accepts(self, probabilities: Tensor, drafted: Tensor) -> Tensor:
        """See `Lenient.accepts`."""
        entropy = -torch.xlogy(probabilities, probabilities).sum(dim=-1)
        demanded = (math.sqrt(self.epsilon) * torch.exp(-entropy)).clamp(max=self.epsilon)
        return chosen(probabilities, drafted) > demanded
