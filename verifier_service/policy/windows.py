"""How many drafted tokens to wait for, and how far ahead to draft: one class for each way of deciding."""

import math
from collections.abc import Sequence

from sybil_engine.core.plan import HEDGED_DRAFT_ROWS, DraftPlan
from sybil_engine.core.types import Speculation
from verifier_service.policy.pace import Pace
from verifier_service.policy.rule import Rule, State


class FixedPlan(Rule):
    """The same plan after each commit."""

    def __init__(self, pace: Pace, plan: DraftPlan) -> None:
        super().__init__(pace)
        self._plan = plan

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        return self._plan


class BestWindow(Rule):
    """Lockstep with the window that commits the most tokens per unit of time, as measured so far.

    Windows are long where the drafter is sure, and short where it is not: a window stops at the first token whose
    chance of being reached is below `least_chance`. Among other sessions a row is worth what all of them together would
    commit in its time, so windows shrink as passes fill.
    """

    # The longest window, as a multiple of the one that is best on average.
    _LONGER = 2

    def __init__(self, pace: Pace, most_tokens: int, *, by_chance: bool = True) -> None:
        """
        Args:
            by_chance: whether the drafted tokens' chances may decide how many of them are judged.
        """
        super().__init__(pace)
        self._most_tokens = most_tokens
        self._by_chance = by_chance

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        company = self.pace.load.company
        best_tokens = max(1, self._worthwhile_tokens() if company else self.pace.best_window(self._most_tokens))
        if self._proposed_beat(state.proposed, best_tokens):
            return DraftPlan(Speculation.LOCKSTEP, hold_until=0)
        window_tokens, least_chance = best_tokens, 0.0
        if self._by_chance:
            window_tokens = min(self._LONGER * best_tokens, self._most_tokens)
            least_chance = self._least_worthwhile() if company else self.pace.least_chance(best_tokens)
        return DraftPlan(Speculation.LOCKSTEP, window_tokens, hold_until=window_tokens, least_chance=least_chance)

    def _proposed_beat(self, proposed: Sequence[float], window_tokens: int) -> bool:
        """Whether a pass with what is proposed, at once, commits more per unit of time than one that waits."""
        if not proposed:
            return False
        rows, tokens = self.pace.worthwhile(proposed)
        return tokens / self.pace.alone_times.expected_ns(1 + rows) > self.pace.committed_per_ns(window_tokens)

    def _worthwhile_tokens(self) -> int:
        """How many tokens are worth their rows on average."""
        acceptance_rate = min(max(self.pace.acceptance_rate.value, 0.1), 0.95)
        price = min(max(self.pace.row_price, 1e-6), 1.0)
        return min(int(math.log(price) / math.log(acceptance_rate)), self._most_tokens)

    def _least_worthwhile(self) -> float:
        """The chance of being reached that a token needs, for drafting another one after it to be worth its row."""
        return min(1.0, self.pace.row_price / max(self.pace.acceptance_rate.value, 0.1))


class LearnedWindow(Rule):
    """Pipelined, with hedges or without: wait for another drafted token while that pays in the long run.

    See `Outlook`.
    """

    # Drafting stops where the chance that the commits get that far falls below this.
    _LEAST_SURVIVAL = 0.02

    def __init__(self, pace: Pace, most_tokens: int, *, hedged: bool) -> None:
        super().__init__(pace)
        self._most_tokens = most_tokens
        self._rows = HEDGED_DRAFT_ROWS if hedged else 1
        self._speculation = Speculation.HEDGED if hedged else Speculation.PIPELINED

    def next(self, state: State) -> DraftPlan:
        """See `Rule.next`."""
        budget = self._budget()
        proposed_tokens = self._as_trunk(state.proposed)
        ready_tokens = min(max(state.ready_tokens, proposed_tokens), self._most_tokens)
        # The drafter sends nothing beyond the budget.
        most_tokens = max(ready_tokens, min(self._most_tokens, budget))
        hold_until = self.pace.outlook(most_tokens).best_window(ready_tokens)
        # Proposals are here already. Where they are enough, waiting for blocks would be waiting for nothing.
        enough = hold_until <= max(proposed_tokens, state.ready_tokens)
        return DraftPlan(self._speculation, budget, self._rows, 0 if enough and proposed_tokens else hold_until)

    def _as_trunk(self, proposed: Sequence[float]) -> int:
        """How many tokens of a trunk are worth as much as what is proposed."""
        worth, tokens, chance = sum(proposed), 0, 1.0
        while worth > 0 and tokens < self._most_tokens:
            chance *= self.pace.acceptance_rate.value
            worth -= chance
            tokens += worth >= 0
        return tokens

    def _budget(self) -> int:
        acceptance_rate = min(max(self.pace.acceptance_rate.value, 0.1), 0.95)
        useful = math.ceil(math.log(self._LEAST_SURVIVAL) / math.log(acceptance_rate))
        return min(useful, 2 * self._most_tokens)
