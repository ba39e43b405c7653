"""How many drafted tokens are worth waiting for, and how far ahead drafting pays: one class a way to speculate."""

import math

from sybil_engine.core.plan import HEDGED_DRAFT_ROWS, NO_DRAFTING, DraftPlan
from sybil_engine.core.types import Speculation
from verifier_service.policy.pace import Pace
from verifier_service.policy.plan import PassOutcome, State


class PlainDecoding:
    """No drafts: one token a pass."""

    reason = ""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        return NO_DRAFTING

    def learn(self, outcome: PassOutcome) -> None:
        """Nothing is learned from it."""


class FixedWindow:
    """Draft-then-verify: wait for the whole window, and let nothing be drafted beyond it."""

    reason = ""

    def __init__(self, pace: Pace, window_tokens: int) -> None:
        self.pace = pace
        self._window_tokens = window_tokens

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        return DraftPlan(Speculation.LOCKSTEP, self._window_tokens, hold_until=self._window_tokens)

    def learn(self, outcome: PassOutcome) -> None:
        """Nothing is learned from it."""


class BestWindow:
    """Draft-then-verify with the windows that commit most per unit of time, as measured so far.

    A window is long where the drafter is sure and short where it is not: it stops at the first token whose chance of
    being reached is below what another token costs.
    """

    # How much longer than the window that is best on average one may get where the drafter is sure.
    _LONGER = 2

    reason = ""

    def __init__(self, pace: Pace, most_tokens: int, *, by_chance: bool = True) -> None:
        """
        Args:
            by_chance: whether how likely drafted tokens are may decide what is judged.
        """
        self.pace = pace
        self._most_tokens = most_tokens
        self._by_chance = by_chance

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        best_tokens = max(1, self.pace.best_window(self._most_tokens))
        if not self._by_chance:
            return DraftPlan(Speculation.LOCKSTEP, best_tokens, hold_until=best_tokens)
        window_tokens = min(self._LONGER * best_tokens, self._most_tokens)
        return DraftPlan(
            Speculation.LOCKSTEP,
            window_tokens,
            hold_until=window_tokens,
            least_chance=self.pace.least_chance(best_tokens),
        )

    def learn(self, outcome: PassOutcome) -> None:
        """What it goes by is in the pace."""


class LearnedWindow:
    """Pipelined, hedged or not: wait for another drafted token while that pays in the long run; see `Outlook`."""

    # A token is drafted ahead only while it has this chance of being reached by the commits.
    _LEAST_SURVIVAL = 0.02

    reason = ""

    def __init__(self, pace: Pace, most_tokens: int, *, hedged: bool) -> None:
        self.pace = pace
        self._most_tokens = most_tokens
        self._rows = HEDGED_DRAFT_ROWS if hedged else 1
        self._speculation = Speculation.HEDGED if hedged else Speculation.PIPELINED

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        budget = self._budget()
        ready_tokens = min(state.ready_tokens, self._most_tokens)
        # Nothing comes beyond the budget.
        most_tokens = max(ready_tokens, min(self._most_tokens, budget))
        hold_until = self.pace.outlook(most_tokens).best_window(ready_tokens)
        return DraftPlan(self._speculation, budget, self._rows, hold_until)

    def learn(self, outcome: PassOutcome) -> None:
        """What it goes by is in the pace."""

    def _budget(self) -> int:
        acceptance_rate = min(max(self.pace.acceptance_rate.value, 0.1), 0.95)
        worth_while = math.ceil(math.log(self._LEAST_SURVIVAL) / math.log(acceptance_rate))
        return min(worth_while, 2 * self._most_tokens)
