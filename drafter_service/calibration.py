"""How likely a guess is right, learned from how often guesses of the same certainty were."""

import math
from collections.abc import Sequence

from sybil_engine.sampling.draw import Guess


class Calibration:
    """Counts, by rank and certainty, how many guesses the target then drew.

    The best guess is right more often than a runner-up of the same certainty. A logistic fit to traces of the embedded
    pair is the prior (docs/log.md).
    """

    # For each rank: log-odds of being right = intercept + slope * log-odds of the certainty.
    _FITS = ((1.3, 1.7), (0.8, 2.0), (1.0, 2.0), (1.0, 2.0))

    _BINS_A_NAT = 2
    _BINS = 24
    _FIT_COUNTS_FOR = 10.0

    def __init__(self) -> None:
        self._seen = [[self._FIT_COUNTS_FOR] * self._BINS for _ in self._FITS]
        self._right = [
            [self._FIT_COUNTS_FOR * _sigmoid(start + slope * self._log_odds(index)) for index in range(self._BINS)]
            for start, slope in self._FITS
        ]

    def saw(self, guesses: Sequence[Guess], token_id: int) -> None:
        """Learn what the target drew where these were the guesses, best first."""
        for rank, guess in enumerate(guesses):
            place, index = min(rank, len(self._FITS) - 1), self._bin(guess.certainty)
            self._seen[place][index] += 1
            self._right[place][index] += guess.token_id == token_id

    def chance(self, rank: int, certainty: float) -> float:
        """P(target draws a guess of this rank and certainty); rank 0 is the best guess."""
        place, index = min(rank, len(self._FITS) - 1), self._bin(certainty)
        return self._right[place][index] / self._seen[place][index]

    def _bin(self, certainty: float) -> int:
        """The bin of a certainty. Bins are even in log-odds, which resolves certainties near 0 and 1."""
        bounded = min(max(certainty, 1e-6), 1 - 1e-6)
        index = round(math.log(bounded / (1 - bounded)) * self._BINS_A_NAT) + self._BINS // 2
        return min(max(index, 0), self._BINS - 1)

    def _log_odds(self, index: int) -> float:
        return (index - self._BINS // 2) / self._BINS_A_NAT


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))
