"""What drafting should do next: one decision, one value."""

from dataclasses import dataclass

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import Speculation

LOCKSTEP_WINDOW_TOKENS = 5
"""The window of a lockstep session whose request does not name one."""

HEDGED_DRAFT_ROWS = 8
"""The most rows by which one draft pass grows the tree of a hedged session."""

_PIPELINED_BUDGET_TOKENS = 12


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """What drafting should do until the next plan.

    Attributes:
        speculation: how the session speculates. In an opening it may be AUTO; in a commit it is what AUTO has chosen.
        budget: the most tokens to draft beyond the last committed one; 0 switches drafting off.
        rows: the most rows by which one draft pass grows the draft tree; 1 grows the trunk alone.
        hold_until: blocks are held back until this many tokens are drafted beyond the commit; the next verify pass
            waits for as many.
        least_chance: the trunk ends at the first token whose chance of being reached is below this; 0: no such limit.

    Raises:
        InvalidRequest: a value is out of range.
    """

    speculation: Speculation = Speculation.OFF
    budget: int = 0
    rows: int = 1
    hold_until: int = 1
    least_chance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.least_chance <= 1:
            raise InvalidRequest(f"least_chance is {self.least_chance}; it is a probability, between 0 and 1")


NO_DRAFTING = DraftPlan(hold_until=0)


def first_plan(
    speculation: Speculation,
    window_tokens: int = 0,
    *,
    by_model: bool = True,
    shares_processor: bool = False,
    drafts_pay: bool = True,
) -> DraftPlan:
    """The plan that a session opens with.

    Args:
        window_tokens: the most drafted tokens that one pass may judge; 0: the verifier's own choice.
        by_model: drafter services take part. Other drafters need no plan.
        shares_processor: drafting takes time from verify passes. AUTO then begins with one window, as lockstep does,
            because drafting further would delay the first pass.
        drafts_pay: whether most AUTO sessions that run are told to draft. If not, AUTO drafts nothing until the
            verifier's plan asks for drafts.
    """
    if not by_model:
        return DraftPlan(speculation, hold_until=0)
    lockstep = DraftPlan(
        speculation, window_tokens or LOCKSTEP_WINDOW_TOKENS, hold_until=window_tokens or LOCKSTEP_WINDOW_TOKENS
    )
    ahead = DraftPlan(speculation, max(_PIPELINED_BUDGET_TOKENS, 2 * window_tokens))
    match speculation:
        case Speculation.OFF:
            return NO_DRAFTING
        case Speculation.LOCKSTEP:
            return lockstep
        case Speculation.PIPELINED:
            return ahead
        case Speculation.HEDGED:
            return DraftPlan(speculation, ahead.budget, rows=HEDGED_DRAFT_ROWS)
        case Speculation.AUTO:
            if not drafts_pay:
                return DraftPlan(speculation, hold_until=0)
            return lockstep if shares_processor else ahead
