"""How likely each of the drafter's guesses is right, by how close it came to the best one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulator.trace import RANKS, Floats, Ints, Trace

LEAST_SURVIVAL = 0.02
"""A guess with less of a chance to be reached by the commits is neither drafted nor judged, as in the engine."""

_BUCKETS = 12


@dataclass(frozen=True, eq=False)
class Calibration:
    """What traces say about the chances of guesses.

    For each rank, by the score that it lacks to the best guess (the best one: by its lead over the second), in buckets
    of equally many positions.

    The engine learns the same from what is accepted; here it is known from the start. A trace's own tokens are left out
    of what is known about its guesses, or they would give away which of them are right.

    Attributes:
        edges: [8, buckets - 1], where the buckets of each rank meet.
        hits: [8, buckets], how many guesses were right.
        counts: [8, buckets], of how many.
    """

    edges: Floats
    hits: Floats
    counts: Floats

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> "Calibration":
        """Learn from the traces of one temperature."""
        gaps = np.concatenate([_gaps(trace) for trace in traces])
        quantiles = np.linspace(0, 1, _BUCKETS + 1)[1:-1]
        edges = np.quantile(gaps, quantiles, axis=0).T
        hits, counts = np.sum([_count(edges, trace) for trace in traces], axis=0)
        return cls(edges, hits, counts)

    def costs(self, trace: Trace) -> list[list[float]]:
        """[tokens] of minus the logarithms of the guesses' chances, best guess first, hopeless guesses left out.

        Args:
            trace: one of those that the chances were learned from.
        """
        own_hits, own_counts = _count(self.edges, trace)
        # As if each bucket had been seen once more, with the chance of all.
        rates = self.hits.sum(axis=1, keepdims=True) / self.counts.sum(axis=1, keepdims=True)
        chances = (self.hits - own_hits + rates) / (self.counts - own_counts + 1)
        columns = np.take_along_axis(chances, _buckets(self.edges, trace), axis=1)
        logs = -np.log(np.clip(columns.T, 1e-9, 1.0))
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


def _count(edges: Floats, trace: Trace) -> tuple[Floats, Floats]:
    """[8, buckets] each: how many of a trace's guesses were right, and how many there were."""
    ranks = np.array(trace.shared_ranks)
    hits, counts = np.zeros((2, RANKS, _BUCKETS))
    for rank, buckets in enumerate(_buckets(edges, trace)):
        hits[rank] = np.bincount(buckets, weights=ranks == rank, minlength=_BUCKETS)
        counts[rank] = np.bincount(buckets, minlength=_BUCKETS)
    return hits, counts


def _buckets(edges: Floats, trace: Trace) -> Ints:
    """[8, tokens], the bucket of each guess."""
    gaps = _gaps(trace)
    return np.stack([np.searchsorted(edges[rank], gaps[:, rank]) for rank in range(RANKS)])


def _gaps(trace: Trace) -> Floats:
    scores = trace.shared_scores
    gaps: Floats = scores[:, :1] - scores
    gaps[:, 0] = scores[:, 0] - scores[:, 1]
    return gaps
