"""What each rule plans: how much is waited for, how far drafting goes ahead, and where it stops."""

import random
from dataclasses import replace
from itertools import accumulate
from operator import mul

import pytest

from sybil_engine.core.plan import HEDGED_DRAFT_ROWS, NO_DRAFTING, DraftPlan, first_plan
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import Speculation
from tests.unit.verifier.paces import pace_of
from verifier_service.policy.choice import Choice
from verifier_service.policy.pace import Pace
from verifier_service.policy.rule import PassOutcome, Rule, State, patience_ns
from verifier_service.policy.rules import rule_for
from verifier_service.policy.windows import BestWindow, LearnedWindow

NOTHING_READY = State(0)


def rule_of(speculation: Speculation, most_tokens: int = 8, window_tokens: int = 0, pace: Pace | None = None) -> Rule:
    """The rule of a session that asks for this."""
    opening = SessionOpen((1,), 1, plan=first_plan(speculation, window_tokens), window_tokens=window_tokens)
    return rule_for(opening, most_tokens, pace or pace_of(), Choice(), by_chance=True)


def measured(
    acceptance_rate: float, draft_token_ns: float, round_trip_ns: float = 0.0, pass_ns: float = 1e7, row_ns: float = 0.0
) -> Pace:
    pace = pace_of(pass_ns, row_ns)
    pace.acceptance_rate.value = acceptance_rate
    pace.draft_token_ns.value = draft_token_ns
    pace.round_trip_ns.value = round_trip_ns
    return pace


def learned(acceptance_rate: float, draft_token_ns: float, round_trip_ns: float = 0.0) -> LearnedWindow:
    return LearnedWindow(measured(acceptance_rate, draft_token_ns, round_trip_ns), 8, hedged=False)


def waited_for(rule: Rule, ready_tokens: int = 0) -> int:
    return rule.next(State(ready_tokens)).hold_until


# ----------------------------------------------------------------------------------------------------------- every rule


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("speculation", Speculation)
def test_asking_a_rule_twice_gives_the_same_plan_and_changes_nothing(speculation: Speculation, seed: int) -> None:
    """The one that is asked again and again plans as its twin that is asked once a commit."""
    chance = random.Random(seed)
    asked, twin = (rule_of(speculation, pace=pace_of()) for _ in range(2))
    now_ns = 0
    for _ in range(60):
        state = State(chance.randrange(10))
        plans = [asked.next(state)]
        plans += [asked.next(State(chance.randrange(10))) for _ in range(chance.randrange(3))]
        plans.append(asked.next(state))
        assert plans[0] == plans[-1] == twin.next(state)
        assert asked.reason == twin.reason
        tokens = chance.randint(1, 4)
        now_ns += chance.randrange(1, 10**8)
        for rule in (asked, twin):
            rule.pace.saw_block(tokens, 1_000_000 * tokens, None)
            rule.pace.saw_pass(4, tokens - 1)
            rule.learn(PassOutcome(tokens, now_ns, 1e7))


@pytest.mark.parametrize("most_tokens", [1, 3, 8])
@pytest.mark.parametrize("speculation", Speculation)
def test_a_plan_never_waits_for_more_than_it_lets_be_drafted_or_than_a_pass_may_judge(
    speculation: Speculation, most_tokens: int
) -> None:
    for step in range(21):
        for draft_token_ns in (1e3, 1e6, 1e9):
            pace = measured(step / 20, draft_token_ns, 5e5)
            plan = rule_of(speculation, most_tokens, pace=pace).next(NOTHING_READY)
            assert plan.hold_until <= min(plan.budget, most_tokens)
            assert 1 <= plan.rows <= HEDGED_DRAFT_ROWS
            assert 0 <= plan.least_chance <= 1


@pytest.mark.parametrize("speculation", [each for each in Speculation if each is not Speculation.AUTO])
def test_a_plan_speculates_as_it_was_asked_to(speculation: Speculation) -> None:
    plan = rule_of(speculation).next(NOTHING_READY)
    assert plan.speculation is speculation
    assert plan.rows == first_plan(speculation).rows


def test_an_adaptive_session_plans_by_the_rule_of_its_current_way() -> None:
    plan = rule_of(Speculation.AUTO).next(NOTHING_READY)
    assert plan == rule_of(plan.speculation).next(NOTHING_READY)
    assert plan.speculation is Choice().best


def test_a_session_may_ask_for_a_smaller_window_but_not_for_a_larger_one() -> None:
    assert [rule_of(Speculation.LOCKSTEP, 6, asked).next(NOTHING_READY).budget for asked in (2, 6, 64)] == [2, 6, 6]


# ------------------------------------------------------------------------------------------------------------- lockstep


@pytest.mark.parametrize("ready_tokens", range(5))
def test_lockstep_waits_for_the_whole_window_whatever_is_ready(ready_tokens: int) -> None:
    rule = rule_of(Speculation.LOCKSTEP, window_tokens=4)
    plan = rule.next(State(ready_tokens))
    assert plan == DraftPlan(Speculation.LOCKSTEP, budget=4, hold_until=4)
    assert 100_000_000 <= patience_ns(plan, rule.pace, ready_tokens) < 10**9


def test_without_speculation_nothing_is_waited_for_or_drafted() -> None:
    rule = rule_of(Speculation.OFF)
    plan = rule.next(NOTHING_READY)
    assert plan == NO_DRAFTING
    assert (plan.hold_until, plan.budget) == (0, 0)


def drafted_then_verified(pace: Pace, chances: list[float], row_ns: float = 0.0) -> float:
    """Tokens per nanosecond of a draft-then-verify round in which these tokens are judged, the simplest way."""
    survivals = accumulate(chances, mul, initial=1.0)
    wait_ns = pace.round_trip_ns.value + len(chances) * pace.draft_token_ns.value if chances else 0.0
    return sum(survivals) / (1e7 + row_ns * len(chances) + wait_ns)


@pytest.mark.parametrize("acceptance_rate", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("draft_token_ns", [1e4, 1e6, 3e6])
@pytest.mark.parametrize("row_ns", [0.0, 5e5])
def test_no_window_of_draft_then_verify_commits_more_per_time(
    acceptance_rate: float, draft_token_ns: float, row_ns: float
) -> None:
    pace = measured(acceptance_rate, draft_token_ns, 5e5, row_ns=row_ns)
    window = BestWindow(pace, 8, by_chance=False).next(NOTHING_READY).budget
    rates = [drafted_then_verified(pace, [acceptance_rate] * tokens, row_ns) for tokens in range(1, 9)]
    assert rates[window - 1] == pytest.approx(max(rates))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("acceptance_rate", "draft_token_ns"), [(0.6, 1e6), (0.8, 1e6), (0.8, 3e6), (0.9, 2e6)])
def test_stopping_at_unlikely_tokens_commits_more_in_the_long_run_than_any_fixed_window(
    acceptance_rate: float, draft_token_ns: float, seed: int
) -> None:
    """Played round by round on texts of which some are easy and some are hard."""
    pace = measured(acceptance_rate, draft_token_ns, 5e5)
    plan = BestWindow(pace, 8).next(NOTHING_READY)
    chance = random.Random(seed)
    spread = min(acceptance_rate, 1 - acceptance_rate)
    rounds = [[acceptance_rate + chance.choice((-1, 1)) * 0.95 * spread for _ in range(8)] for _ in range(2_000)]

    def stopped(chances: list[float]) -> list[float]:
        reached = list(accumulate(chances[: plan.hold_until], mul))
        return chances[: 1 + next((i for i, each in enumerate(reached) if each < plan.least_chance), len(reached) - 1)]

    def rate(windows: list[list[float]]) -> float:
        tokens = sum(sum(accumulate(window, mul, initial=1.0)) for window in windows)
        return tokens / sum(1e7 + 5e5 + len(window) * draft_token_ns for window in windows)

    fixed = [rate([chances[:window] for chances in rounds]) for window in range(1, 9)]
    assert rate([stopped(chances) for chances in rounds]) > max(fixed)


def test_drafting_stops_sooner_when_a_token_costs_more() -> None:
    """Nothing is free: where a draft takes next to no time, it goes on to the end; where it takes long, it stops."""
    prices = (1e2, 1e5, 1e6, 5e6, 1e9)
    least_chances = [BestWindow(measured(0.8, price), 8).next(NOTHING_READY).least_chance for price in prices]
    assert least_chances == sorted(least_chances)
    assert least_chances[0] < 0.01
    assert least_chances[-1] == 1


@pytest.mark.parametrize("acceptance_rate", [0.0, 0.5, 1.0])
def test_where_the_drafter_is_sure_a_window_may_be_longer_and_one_token_is_always_tried(acceptance_rate: float) -> None:
    pace = measured(acceptance_rate, 1e6)
    average, longest = (BestWindow(pace, 8, by_chance=flag).next(NOTHING_READY).budget for flag in (False, True))
    assert 1 <= average <= longest <= 8


def test_rows_that_cost_as_much_as_a_pass_keep_windows_short() -> None:
    def window(row_ns: float) -> int:
        return BestWindow(measured(0.7, 1e5, row_ns=row_ns), 8, by_chance=False).next(NOTHING_READY).budget

    windows = [window(share * 1e7) for share in (0, 0.1, 0.5, 1)]
    assert windows == sorted(windows, reverse=True)
    assert windows[0] == 8
    assert windows[-1] == 1


# ------------------------------------------------------------------------------------------------------- drafting ahead


def test_cheap_and_accepted_drafts_are_waited_for() -> None:
    assert waited_for(learned(acceptance_rate=0.95, draft_token_ns=1e4)) == 8


@pytest.mark.parametrize("acceptance_rate", [0.1, 0.7, 0.99])
def test_drafts_that_take_longer_than_a_pass_are_not_waited_for(acceptance_rate: float) -> None:
    rule = learned(acceptance_rate, draft_token_ns=1.1e7)
    assert waited_for(rule) == 0
    assert patience_ns(rule.next(NOTHING_READY), rule.pace, 0) == 0


def test_a_long_way_to_the_drafter_is_not_waited_for() -> None:
    assert waited_for(learned(0.7, 1e6, round_trip_ns=1e9)) == 0
    # But when some tokens are here, drafting goes on already, and the way does not count.
    assert waited_for(learned(0.9, 1e4, round_trip_ns=1e9), ready_tokens=1) > 1


@pytest.mark.parametrize("draft_token_ns", [1e4, 1e6, 3e6])
def test_more_is_waited_for_as_acceptance_grows_and_never_less_than_is_ready(draft_token_ns: float) -> None:
    windows = [waited_for(learned(step / 20, draft_token_ns, 5e5)) for step in range(20)]
    assert windows == sorted(windows)
    for ready_tokens in range(12):
        assert min(ready_tokens, 8) <= waited_for(learned(0.5, draft_token_ns), ready_tokens) <= 8


def test_the_budget_grows_with_acceptance_within_bounds() -> None:
    budgets = [learned(step / 100, 1e6).next(NOTHING_READY).budget for step in range(101)]
    assert budgets == sorted(budgets)
    assert budgets[0] == 2
    assert budgets[-1] == 16
    assert len(set(budgets)) > 5


@pytest.mark.parametrize("ready_tokens", [0, 3])
def test_hedged_drafting_waits_and_goes_ahead_as_pipelined_drafting_does(ready_tokens: int) -> None:
    pipelined, hedged = (LearnedWindow(measured(0.8, 1e6), 8, hedged=hedged) for hedged in (False, True))
    plan = hedged.next(State(ready_tokens))
    assert plan == replace(pipelined.next(State(ready_tokens)), speculation=Speculation.HEDGED, rows=plan.rows)
    assert plan.rows > 1


# ------------------------------------------------------------------------------------------------------------- patience

PLANS = [DraftPlan(Speculation.LOCKSTEP, 8, hold_until=5), DraftPlan(Speculation.PIPELINED, 8, hold_until=5)]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.speculation.value)
@pytest.mark.parametrize("ready_tokens", range(5))
@pytest.mark.parametrize("draft_token_ns", [1e5, 1e6, 3e6])
def test_a_wait_exceeds_the_expected_arrival_and_ends(
    plan: DraftPlan, ready_tokens: int, draft_token_ns: float
) -> None:
    pace = measured(0.8, draft_token_ns, 5e5)
    arrival_ns = pace.arrival_ns(ready_tokens, plan.hold_until - ready_tokens)
    assert arrival_ns < patience_ns(plan, pace, ready_tokens) <= 5e9
    late = measured(0.8, 1e15, 1e15)
    assert patience_ns(plan, late, ready_tokens) == 5_000_000_000, "whatever a drafter says of its times"


def test_a_wait_is_no_longer_where_more_is_ready_and_shorter_where_drafting_goes_on_during_passes() -> None:
    pace = measured(0.8, 1e6, 5e5)
    for plan in PLANS:
        waits = [patience_ns(plan, pace, ready_tokens) for ready_tokens in range(8)]
        assert waits == sorted(waits, reverse=True)
    lockstep, pipelined = (patience_ns(plan, pace, 0) for plan in PLANS)
    assert pipelined < lockstep
    assert patience_ns(PLANS[1], pace, 5) == 0, "all of it is here"


# ------------------------------------------------------------------------------------------------------ what is learned


def test_a_rule_learns_acceptance_from_tested_tokens_only() -> None:
    rule = learned(0.5, 1e6)
    rule.pace.saw_pass(tested_tokens=0, accepted_tokens=0)
    assert rule.pace.acceptance_rate.value == 0.5
    for _ in range(200):
        rule.pace.saw_pass(tested_tokens=4, accepted_tokens=3)
    assert rule.pace.acceptance_rate.value == pytest.approx(0.75, abs=0.08)


def test_a_rule_learns_the_round_trip_only_from_the_first_block_after_a_miss() -> None:
    rule = learned(0.5, 1e6, round_trip_ns=100.0)
    rule.pace.saw_block(2, draft_ns=2_000_000, since_miss_ns=None)
    assert rule.pace.round_trip_ns.value == 100.0
    for _ in range(100):
        rule.pace.saw_block(2, draft_ns=4_000_000, since_miss_ns=4_700_000)
    assert rule.pace.round_trip_ns.value == pytest.approx(700_000, rel=0.01)
    assert rule.pace.draft_token_ns.value == pytest.approx(2_000_000, rel=0.01)
