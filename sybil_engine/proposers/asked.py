"""One proposer of one session, as those who ask it see it: guarded, measured, and asked less while it does not pay."""

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, TypeVar

from sybil_engine.core.moving_mean import MovingMean
from sybil_engine.core.worth import Worth
from sybil_engine.proposers.evidence import EvidenceTable
from sybil_engine.proposers.proposer import MOST_CONTINUATIONS, Continuation, Proposer

Answer = TypeVar("Answer")


class Failure(Enum):
    """What a proposer did wrong."""

    RAISED = "raised"
    GARBAGE = "garbage"
    LATE = "late"


FailureCounts = Counter[tuple[str, Failure]]
"""How often each proposer failed, by its name and how."""


@dataclass(frozen=True, slots=True)
class Guessed:
    """A continuation with the chance that the engine gives it, averaged over the noise."""

    continuation: Continuation
    chance: float


class Asked:
    """Asks a proposer, and believes it as far as it was right before.

    Args:
        name: of the proposer.
        table: how often its continuations were right in all sessions.
        vocabulary_size: token ids are smaller.
        failures: counts what it does wrong.
    """

    # A proposer that fails this often is not asked again in this session.
    _MOST_FAILURES = 3
    # Step size of the session's own correction, in log-odds.
    _LEARNING_RATE = 0.15
    _MOST_SHIFT = 3.0

    def __init__(
        self, name: str, proposer: Proposer, table: EvidenceTable, vocabulary_size: int, failures: FailureCounts
    ) -> None:
        self.name = name
        self._proposer = proposer
        self._table = table
        self._vocabulary_size = vocabulary_size
        self._failures = failures
        self._failed = 0
        self._cost_ns = MovingMean(float(proposer.cost_ns), weight=0.05)
        self._worth = Worth()
        self._asked = 0
        # The log-odds by which this session's text is easier than others.
        self._shift = 0.0

    @property
    def rests(self) -> bool:
        """Whether it is not worth asking now."""
        return self._failed >= self._MOST_FAILURES or self._worth.rests

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        self._call(lambda: self._proposer.follow(token_ids), None)

    def continuations(self, path: tuple[int, ...]) -> list[Guessed]:
        """Ask for continuations; those that make no sense are dropped, and counted."""
        start_ns = time.perf_counter_ns()
        self._asked += 1
        nothing: list[Continuation] = []
        given = self._call(lambda: self._checked(self._proposer.continuations(path)), nothing)
        guessed = [Guessed(each, self._chance(each)) for each in given]
        self._cost_ns.add(time.perf_counter_ns() - start_ns)
        return guessed

    def learn(self, guessed: Sequence[Guessed], token_id: int) -> None:
        """Learn which of some continuations the target drew."""
        for each in guessed:
            right = each.continuation.token_id == token_id
            self._table.saw(each.continuation.evidence, right=right)
            moved = self._shift + self._LEARNING_RATE * (right - each.chance)
            self._shift = min(max(moved, -self._MOST_SHIFT), self._MOST_SHIFT)

    def saw_commit(self, accepted: int, token_ns: float) -> None:
        """Weigh what it brought since the last commit against what asking it took.

        Args:
            accepted: of its tokens.
            token_ns: the time in which the session commits a token.
        """
        self._worth.saw(self._asked, accepted, self._cost_ns.value / max(token_ns, 1.0))
        self._asked = 0

    def close(self) -> None:
        """See `Proposer.close`."""
        self._call(self._proposer.close, None)

    def _call(self, function: Callable[[], Answer], otherwise: Answer) -> Answer:
        """Call the proposer, unless it has failed too often."""
        if self._failed < self._MOST_FAILURES:
            try:
                return function()
            except TimeoutError:
                self._fail(Failure.LATE)
            except Exception:  # noqa: BLE001 - a proposer may be anybody's code
                self._fail(Failure.RAISED)
        return otherwise

    def _chance(self, continuation: Continuation) -> float:
        chance = self._table.chance(continuation.evidence, continuation.chance)
        return chance if not self._shift else 1 / (1 + (1 - chance) / chance * math.exp(-self._shift))

    def _checked(self, given: Iterable[Continuation]) -> list[Continuation]:
        kept: dict[int, Continuation] = {}
        for each in islice(given, MOST_CONTINUATIONS):
            if not self._makes_sense(each):
                self._fail(Failure.GARBAGE)
                return []
            kept.setdefault(each.token_id, each)
        return list(kept.values())

    def _makes_sense(self, given: Any) -> bool:
        """Whether what a proposer gave is a continuation, with a token and a chance that may be."""
        if not isinstance(given, Continuation) or not isinstance(given.evidence, Hashable):
            return False
        token_id: Any = given.token_id
        return isinstance(token_id, int) and 0 <= token_id < self._vocabulary_size and 0 <= given.chance <= 1

    def _fail(self, failure: Failure) -> None:
        self._failed += 1
        self._failures[self.name, failure] += 1
