"""When a pass is launched: how many drafted tokens are worth waiting for, and how far ahead drafting pays."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

from sybil_engine.core.types import HEDGED_DRAFT_ROWS, Speculation
from verifier_service.pace import Pace


@dataclass(frozen=True, slots=True)
class Wait:
    """Until when a session's next pass waits: for this many drafted tokens, but no longer than this.

    Attributes:
        least_chance: nothing is waited for, or drafted, behind a token that has less of a chance to be reached.
    """

    tokens: int
    patience_ns: int
    least_chance: float = 0.0


NO_WAIT = Wait(0, 0)
# However long drafting seems to take: what a drafter says of it may be wrong, and a pass without drafts is progress.
_MOST_PATIENCE_NS = 5_000_000_000
# The drafter works on during a pass.
DRAFTING_AHEAD = (Speculation.PIPELINED, Speculation.HEDGED)


class LaunchRule(Protocol):
    """How one session speculates.

    Attributes:
        max_window_tokens: the most drafted tokens that a pass may judge.
        draft_rows: by how many rows a draft pass may grow the draft tree.
        speculation: the name it goes by.
    """

    pace: Pace

    @property
    def max_window_tokens(self) -> int: ...

    @property
    def draft_rows(self) -> int: ...

    @property
    def speculation(self) -> Speculation: ...

    @property
    def reason(self) -> str:
        """Why it speculates as it does, where that is its own choice."""

    def wait(self, ready_tokens: int) -> Wait:
        """What the pass after a commit waits for, when that commit left `ready_tokens` drafted."""

    def draft_budget(self) -> int:
        """How far ahead of a commit drafting is worth while."""

    def committed(self, tokens: int, now_ns: int, plain_pass_ns: float) -> None:
        """Note that a pass committed tokens.

        Args:
            plain_pass_ns: what the pass would have taken if this session had had no drafted tokens in it, and the
                prompts that were fed before it.
        """


class FixedWindow:
    """Draft-then-verify: wait for the whole window, and let nothing be drafted beyond it. No window: plain decoding."""

    # A drafter that takes many times as long as it should is late or dead.
    _PATIENCE = 10
    _LEAST_PATIENCE_NS = 100_000_000

    draft_rows = 1
    reason = ""

    def __init__(self, pace: Pace, window_tokens: int) -> None:
        self.pace = pace
        self.max_window_tokens = window_tokens
        self.speculation = Speculation.LOCKSTEP if window_tokens else Speculation.OFF

    def wait(self, ready_tokens: int) -> Wait:
        arrival_ns = self.pace.arrival_ns(ready_tokens, max(0, self.max_window_tokens - ready_tokens))
        patience_ns = max(self._LEAST_PATIENCE_NS, int(self._PATIENCE * arrival_ns))
        return Wait(self.max_window_tokens, min(patience_ns, _MOST_PATIENCE_NS))

    def draft_budget(self) -> int:
        return self.max_window_tokens

    def committed(self, tokens: int, now_ns: int, plain_pass_ns: float) -> None:
        """Nothing is learned from it."""


class BestWindow(FixedWindow):
    """Draft-then-verify with the windows that commit most per unit of time, as measured so far.

    A window ends behind the first token that is so unlikely to be reached that another one behind it does not pay: it
    is long where the drafter is sure, and short where it is not.
    """

    # How much longer than the window that is best on average one may get where the drafter is sure.
    _LONGER = 2

    def __init__(self, pace: Pace, most_tokens: int, *, by_chance: bool = True) -> None:
        """
        Args:
            by_chance: whether how likely drafted tokens are may decide what is judged.
        """
        super().__init__(pace, most_tokens)
        self._most_tokens = most_tokens
        self._by_chance = by_chance
        self._best_window_tokens = most_tokens

    def wait(self, ready_tokens: int) -> Wait:
        wait = super().wait(ready_tokens)
        if not self._by_chance:
            return wait
        return replace(wait, least_chance=self.pace.least_chance(self._best_window_tokens))

    def draft_budget(self) -> int:
        # Once a commit: it weighs every window.
        self._best_window_tokens = max(1, self.pace.best_window(self._most_tokens))
        longer = self._LONGER if self._by_chance else 1
        self.max_window_tokens = min(longer * self._best_window_tokens, self._most_tokens)
        return self.max_window_tokens


class LearnedWindow:
    """Pipelined, hedged or not: wait for another drafted token while that pays in the long run; see `Outlook`."""

    _PATIENCE = 2
    # A token is drafted ahead only while it has this chance to be reached by the commits.
    _LEAST_SURVIVAL = 0.02

    reason = ""

    def __init__(self, pace: Pace, max_window_tokens: int, *, hedged: bool) -> None:
        self.pace = pace
        self.max_window_tokens = max_window_tokens
        self.draft_rows = HEDGED_DRAFT_ROWS if hedged else 1
        self.speculation = Speculation.HEDGED if hedged else Speculation.PIPELINED

    def wait(self, ready_tokens: int) -> Wait:
        ready_tokens = min(ready_tokens, self.max_window_tokens)
        # Nothing comes beyond the budget.
        most_tokens = max(ready_tokens, min(self.max_window_tokens, self.draft_budget()))
        window_tokens = self.pace.outlook(most_tokens).best_window(ready_tokens)
        arrival_ns = self.pace.arrival_ns(ready_tokens, window_tokens - ready_tokens)
        return Wait(window_tokens, min(int(self._PATIENCE * arrival_ns), _MOST_PATIENCE_NS))

    def draft_budget(self) -> int:
        acceptance_rate = min(max(self.pace.acceptance_rate.value, 0.1), 0.95)
        worth_while = math.ceil(math.log(self._LEAST_SURVIVAL) / math.log(acceptance_rate))
        return min(worth_while, 2 * self.max_window_tokens)

    def committed(self, tokens: int, now_ns: int, plain_pass_ns: float) -> None:
        """Nothing is learned from it."""
