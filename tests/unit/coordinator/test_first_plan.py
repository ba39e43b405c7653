"""How sessions open."""

import pytest

from sybil_engine.core.plan import HEDGED_DRAFT_ROWS, LOCKSTEP_WINDOW_TOKENS, NO_DRAFTING, DraftPlan, first_plan
from sybil_engine.core.types import Speculation

ways = pytest.mark.parametrize("speculation", Speculation)
windows = pytest.mark.parametrize("window_tokens", [0, 3, 20])


def drafting(plan: DraftPlan) -> tuple[int, int, int, float]:
    """What a plan says beside the name of its way."""
    return plan.budget, plan.rows, plan.hold_until, plan.least_chance


@ways
@windows
@pytest.mark.parametrize("shares_processor", [False, True])
def test_an_opening_names_the_way_that_was_asked_for(
    speculation: Speculation, window_tokens: int, shares_processor: bool
) -> None:
    assert first_plan(speculation, window_tokens, shares_processor=shares_processor).speculation is speculation


@windows
def test_off_drafts_nothing(window_tokens: int) -> None:
    assert first_plan(Speculation.OFF, window_tokens) == NO_DRAFTING
    assert not NO_DRAFTING.budget


@windows
def test_lockstep_drafts_one_window_and_waits_for_all_of_it(window_tokens: int) -> None:
    plan = first_plan(Speculation.LOCKSTEP, window_tokens)
    assert drafting(plan) == (window_tokens or LOCKSTEP_WINDOW_TOKENS, 1, window_tokens or LOCKSTEP_WINDOW_TOKENS, 0)


@windows
def test_pipelined_drafts_beyond_the_window_that_is_judged_and_holds_nothing_back(window_tokens: int) -> None:
    plan = first_plan(Speculation.PIPELINED, window_tokens)
    assert plan.budget >= max(2 * window_tokens, LOCKSTEP_WINDOW_TOKENS + 1)
    assert (plan.rows, plan.hold_until) == (1, 1)


@windows
def test_hedged_is_pipelined_with_more_rows(window_tokens: int) -> None:
    hedged, pipelined = (first_plan(each, window_tokens) for each in (Speculation.HEDGED, Speculation.PIPELINED))
    assert drafting(hedged) == (pipelined.budget, HEDGED_DRAFT_ROWS, pipelined.hold_until, pipelined.least_chance)
    assert HEDGED_DRAFT_ROWS > 1


@windows
def test_on_a_shared_processor_an_adaptive_session_drafts_one_window_before_the_first_pass(window_tokens: int) -> None:
    opened = first_plan(Speculation.AUTO, window_tokens, shares_processor=True)
    assert drafting(opened) == drafting(first_plan(Speculation.LOCKSTEP, window_tokens))


@windows
def test_elsewhere_it_drafts_ahead_and_holds_nothing_back(window_tokens: int) -> None:
    opened = first_plan(Speculation.AUTO, window_tokens)
    assert drafting(opened) == drafting(first_plan(Speculation.PIPELINED, window_tokens))


@ways
def test_only_an_adaptive_session_cares_whose_processor_it_is(speculation: Speculation) -> None:
    shared, own = (first_plan(speculation, shares_processor=shares) for shares in (True, False))
    assert (shared == own) == (speculation is not Speculation.AUTO)
