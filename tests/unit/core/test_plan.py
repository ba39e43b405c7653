"""The plan that a session opens with, for every way to speculate."""

from dataclasses import replace

import pytest

from sybil_engine.core.plan import HEDGED_DRAFT_ROWS, LOCKSTEP_WINDOW_TOKENS, NO_DRAFTING, first_plan
from sybil_engine.core.types import MOST_WINDOW_TOKENS, Speculation

every_window = pytest.mark.parametrize("window_tokens", [0, 1, 7, MOST_WINDOW_TOKENS])


@every_window
@pytest.mark.parametrize("shares_processor", [False, True])
@pytest.mark.parametrize("speculation", Speculation)
def test_a_first_plan_says_what_was_asked_for_and_waits_for_no_more_than_it_drafts(
    speculation: Speculation, window_tokens: int, shares_processor: bool
) -> None:
    plan = first_plan(speculation, window_tokens, shares_processor=shares_processor)
    assert plan.speculation is speculation
    assert plan.hold_until <= plan.budget
    assert plan.least_chance == 0, "nothing is measured yet"
    assert (plan.budget > 0) == (speculation is not Speculation.OFF)


@every_window
def test_without_speculation_nothing_is_drafted_or_waited_for(window_tokens: int) -> None:
    plan = first_plan(Speculation.OFF, window_tokens)
    assert plan == NO_DRAFTING
    assert (plan.budget, plan.hold_until) == (0, 0)


@every_window
def test_lockstep_drafts_one_window_and_waits_for_all_of_it(window_tokens: int) -> None:
    plan = first_plan(Speculation.LOCKSTEP, window_tokens)
    assert plan.budget == plan.hold_until == (window_tokens or LOCKSTEP_WINDOW_TOKENS)
    assert plan.rows == 1


@every_window
def test_pipelined_drafting_goes_beyond_the_window_and_sends_each_token_at_once(window_tokens: int) -> None:
    plan = first_plan(Speculation.PIPELINED, window_tokens)
    assert plan.budget > window_tokens
    assert (plan.rows, plan.hold_until) == (1, 1)


@every_window
def test_hedged_drafting_is_pipelined_drafting_with_more_rows(window_tokens: int) -> None:
    plan, pipelined = (first_plan(each, window_tokens) for each in (Speculation.HEDGED, Speculation.PIPELINED))
    assert plan == replace(pipelined, speculation=Speculation.HEDGED, rows=HEDGED_DRAFT_ROWS)
    assert plan.rows > 1


@every_window
def test_auto_begins_as_pipelined_but_as_lockstep_where_drafting_delays_the_first_pass(window_tokens: int) -> None:
    for shares_processor, way in ((False, Speculation.PIPELINED), (True, Speculation.LOCKSTEP)):
        plan = first_plan(Speculation.AUTO, window_tokens, shares_processor=shares_processor)
        assert plan == replace(first_plan(way, window_tokens), speculation=Speculation.AUTO)


@every_window
@pytest.mark.parametrize("shares_processor", [False, True])
@pytest.mark.parametrize("speculation", Speculation)
def test_where_drafts_do_not_pay_auto_alone_begins_without_them(
    speculation: Speculation, window_tokens: int, shares_processor: bool
) -> None:
    paying, other = (
        first_plan(speculation, window_tokens, shares_processor=shares_processor, drafts_pay=drafts_pay)
        for drafts_pay in (True, False)
    )
    if speculation is Speculation.AUTO:
        assert other == replace(NO_DRAFTING, speculation=Speculation.AUTO)
    else:
        assert other == paying
