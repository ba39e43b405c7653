"""How likely each of the drafter's guesses is right, by how close it came to the best one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulator.trace import RANKS, Floats, Trace

LEAST_SURVIVAL = 0.005
"""A guess with less of a chance to be reached by the commits is neither drafted nor judged.

Low, because a draft row that would be empty costs nothing: at 0.02 hedges are too short to fill the pass after a miss.
"""

_BUCKETS = 12


@dataclass(frozen=True, eq=False)
class Calibration:
    """Chances learned from traces: for each rank, by the score that it lacks to the best guess (the best one: by its
    lead over the second), in buckets of equally many positions.

    The engine learns the same from what is accepted; here it is known from the start.

    Attributes:
        edges: [8, buckets - 1], where the buckets of each rank meet.
        chances: [8, buckets].
    """

    edges: Floats
    chances: Floats

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> "Calibration":
        """Learn from the traces of one temperature."""
        gaps = np.concatenate([_gaps(trace) for trace in traces])
        ranks = np.concatenate([np.array(trace.shared_ranks) for trace in traces])
        quantiles = np.linspace(0, 1, _BUCKETS + 1)[1:-1]
        edges = np.quantile(gaps, quantiles, axis=0).T
        chances = np.zeros((RANKS, _BUCKETS))
        for rank in range(RANKS):
            right = ranks == rank
            buckets = np.searchsorted(edges[rank], gaps[:, rank])
            hits = np.bincount(buckets, weights=right, minlength=_BUCKETS)
            counts = np.bincount(buckets, minlength=_BUCKETS)
            # As if each bucket had been seen once more, with the chance of all.
            chances[rank] = (hits + right.mean()) / (counts + 1)
        return cls(edges, chances)

    def costs(self, trace: Trace) -> list[list[float]]:
        """[tokens] of minus the logarithms of the guesses' chances, best guess first, hopeless guesses left out."""
        gaps = _gaps(trace)
        columns = [self.chances[rank][np.searchsorted(self.edges[rank], gaps[:, rank])] for rank in range(RANKS)]
        logs = -np.log(np.clip(np.stack(columns, axis=1), 1e-9, 1.0))
        return [_hopeful(row) for row in logs.tolist()]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A trace with what its drafter knows about its own guesses."""

    trace: Trace
    calibration: Calibration

    @cached_property
    def costs(self) -> list[list[float]]:
        """See `Calibration.costs`."""
        return self.calibration.costs(self.trace)


_MOST_COST = -math.log(LEAST_SURVIVAL)


def _hopeful(costs: Sequence[float]) -> list[float]:
    """The best guess, and those behind it up to the first hopeless one."""
    for rank, cost in enumerate(costs):
        if rank and cost > _MOST_COST:
            return list(costs[:rank])
    return list(costs)


def _gaps(trace: Trace) -> Floats:
    scores = trace.shared_scores
    gaps: Floats = scores[:, :1] - scores
    gaps[:, 0] = scores[:, 0] - scores[:, 1]
    return gaps
