"""How much a guess is worth: what the draft model's certainty has meant so far."""

import math
from collections.abc import Sequence

from sybil_engine.sampling import Guess


class Calibration:
    """Counts, by rank and certainty, how many guesses the target went on to draw.

    The best guess is right more often than a runner-up of the same certainty. Until it has seen enough of them it takes
    the model at its word.
    """

    _RANKS = 4

    _BINS_A_NAT = 2
    _BINS = 24
    _WORD_COUNTS_FOR = 20.0

    def __init__(self) -> None:
        word = [self._WORD_COUNTS_FOR * _sigmoid(self._log_odds(index)) for index in range(self._BINS)]
        self._seen = [[self._WORD_COUNTS_FOR] * self._BINS for _ in range(self._RANKS)]
        self._right = [word.copy() for _ in range(self._RANKS)]

    def saw(self, guesses: Sequence[Guess], token_id: int) -> None:
        """Learn what the target drew where these were the guesses, the best one first."""
        for rank, guess in enumerate(guesses):
            place, index = min(rank, self._RANKS - 1), self._bin(guess.certainty)
            self._seen[place][index] += 1
            self._right[place][index] += guess.token_id == token_id

    def chance(self, rank: int, certainty: float) -> float:
        """The chance that a guess of this rank, 0 the best, and certainty is what the target draws."""
        place, index = min(rank, self._RANKS - 1), self._bin(certainty)
        return self._right[place][index] / self._seen[place][index]

    def _bin(self, certainty: float) -> int:
        """Bins are even in log-odds, which spreads out what is nearly sure or nearly ruled out."""
        bounded = min(max(certainty, 1e-6), 1 - 1e-6)
        index = round(math.log(bounded / (1 - bounded)) * self._BINS_A_NAT) + self._BINS // 2
        return min(max(index, 0), self._BINS - 1)

    def _log_odds(self, index: int) -> float:
        return (index - self._BINS // 2) / self._BINS_A_NAT


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))
