"""When a pass is launched, and how far ahead drafting pays."""

import pytest

from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import Speculation
from tests.unit.verifier.paces import pace_of
from verifier_service.policy.choice import Choice, launch_rule
from verifier_service.policy.windows import BestWindow, FixedWindow, LearnedWindow


def learned(
    acceptance_rate: float, draft_token_ns: float, round_trip_ns: float = 0.0, pass_ns: float = 1e7, most: int = 8
) -> LearnedWindow:
    rule = LearnedWindow(pace_of(pass_ns), most, hedged=False)
    rule.pace.acceptance_rate.value = acceptance_rate
    rule.pace.draft_token_ns.value = draft_token_ns
    rule.pace.round_trip_ns.value = round_trip_ns
    return rule


@pytest.mark.parametrize("ready_tokens", range(5))
def test_lockstep_waits_for_the_whole_window_whatever_is_ready(ready_tokens: int) -> None:
    wait = FixedWindow(pace_of(), 4).wait(ready_tokens)
    assert wait.tokens == 4
    assert 100_000_000 <= wait.patience_ns < 10**9


def test_without_speculation_nothing_is_waited_for_or_drafted() -> None:
    rule = launch_rule(SessionOpen((1,), 1, window_tokens=5), 8, pace_of(), Choice())
    assert rule.wait(0).tokens == 0
    assert rule.draft_budget() == 0


def test_cheap_and_accepted_drafts_are_waited_for() -> None:
    assert learned(acceptance_rate=0.95, draft_token_ns=1e4).wait(0).tokens == 8


@pytest.mark.parametrize("acceptance_rate", [0.1, 0.7, 0.99])
def test_drafts_that_take_longer_than_a_pass_are_not_waited_for(acceptance_rate: float) -> None:
    wait = learned(acceptance_rate, draft_token_ns=1.1e7).wait(0)
    assert (wait.tokens, wait.patience_ns) == (0, 0)


def test_a_long_way_to_the_drafter_is_not_waited_for() -> None:
    assert learned(0.7, 1e6, round_trip_ns=1e9).wait(0).tokens == 0
    # But when some tokens are here, drafting goes on already, and the way does not count.
    assert learned(0.9, 1e4, round_trip_ns=1e9).wait(1).tokens > 1


@pytest.mark.parametrize("draft_token_ns", [1e4, 1e6, 3e6])
def test_more_is_waited_for_as_acceptance_grows_and_never_less_than_is_ready(draft_token_ns: float) -> None:
    windows = [learned(step / 20, draft_token_ns, 5e5).wait(0).tokens for step in range(20)]
    assert windows == sorted(windows)
    for ready_tokens in range(12):
        wait = learned(0.5, draft_token_ns).wait(ready_tokens)
        assert min(ready_tokens, 8) <= wait.tokens <= 8


@pytest.mark.parametrize("acceptance_rate", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("draft_token_ns", [1e4, 1e6, 3e6])
def test_the_window_of_draft_then_verify_maximises_tokens_per_time(
    acceptance_rate: float, draft_token_ns: float
) -> None:
    """The rule of docs/architecture.md, written out with its closed form."""

    def tokens_per_pass_time(window_tokens: int) -> float:
        arrival = (5e5 + window_tokens * draft_token_ns) / 1e7 if window_tokens else 0
        return (1 - acceptance_rate ** (window_tokens + 1)) / (1 - acceptance_rate) / (1 + arrival)

    rule = BestWindow(pace_of(), 8)
    rule.pace.acceptance_rate.value = acceptance_rate
    rule.pace.draft_token_ns.value = draft_token_ns
    rule.pace.round_trip_ns.value = 5e5
    best = max(1, max(range(9), key=tokens_per_pass_time))
    assert rule.draft_budget() == min(8, 2 * best), "where the drafter is sure, windows may be longer"
    # Behind a token that is reached with this chance another one is worth its time, no more and no less.
    least_chance = rule.wait(0).least_chance
    worth_ns = least_chance * acceptance_rate / (tokens_per_pass_time(best) / 1e7)
    assert worth_ns == pytest.approx(draft_token_ns) or (least_chance == 1 and worth_ns < draft_token_ns)


@pytest.mark.parametrize("draft_token_ns", [1e5, 1e6, 3e6])
def test_patience_is_twice_what_the_wait_should_take(draft_token_ns: float) -> None:
    wait = learned(0.8, draft_token_ns, 5e5).wait(0)
    assert wait.patience_ns == pytest.approx(2 * (5e5 + wait.tokens * draft_token_ns) if wait.tokens else 0, abs=1)


def test_the_budget_grows_with_acceptance_within_bounds() -> None:
    budgets = [learned(step / 100, 1e6).draft_budget() for step in range(101)]
    assert budgets == sorted(budgets)
    assert budgets[0] == 2
    assert budgets[-1] == 16
    assert len(set(budgets)) > 5


def test_a_session_may_ask_for_a_smaller_window_but_not_for_a_larger_one() -> None:
    for speculation in (Speculation.LOCKSTEP, Speculation.PIPELINED):
        asked = [SessionOpen((1,), 1, speculation=speculation, window_tokens=tokens) for tokens in (0, 2, 100)]
        windows = [launch_rule(each, 6, pace_of(), Choice()).max_window_tokens for each in asked]
        assert windows == [6, 2, 6]


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


def test_pass_times_are_a_line_through_what_was_seen() -> None:
    times = PassTimes()
    for turn in range(200):
        rows = turn % 7 + 1
        times.add(rows, 5_000_000 + 300_000 * rows + (turn % 3 - 1) * 10_000)
    assert times.row_ns == pytest.approx(300_000, rel=0.02)
    assert times.expected_ns(20) == pytest.approx(11_000_000, rel=0.02)


def test_where_passes_were_seen_the_line_does_not_count() -> None:
    times = PassTimes()
    for turn in range(200):
        rows = (1, 4, 8, 32)[turn % 4]
        times.add(rows, 50_000_000 if rows > 16 else 30_000_000)
    assert [times.expected_ns(rows) for rows in (1, 4, 8, 30, 32)] == pytest.approx([3e7, 3e7, 3e7, 5e7, 5e7])


def test_a_size_that_was_long_not_taken_is_looked_at_anew() -> None:
    times = PassTimes()
    for _ in range(20):
        times.add(8, 90_000_000)
    for _ in range(600):
        times.add(2, 10_000_000)
    assert times.expected_ns(8) < 20_000_000
    for _ in range(5):
        times.add(8, 12_000_000)
    assert times.expected_ns(8) == pytest.approx(1.2e7)


def test_a_pass_is_expected_to_take_what_its_padded_size_took() -> None:
    times = PassTimes(padded=lambda rows: max(rows, 4))
    for _ in range(20):
        times.add(4, 10_000_000)
        times.add(8, 20_000_000)
    assert times.expected_ns(1) == pytest.approx(1e7)


@pytest.mark.parametrize("seen", [[], [4] * 50])
def test_without_passes_of_different_rows_a_row_costs_nothing_and_nothing_breaks(seen: list[int]) -> None:
    times = PassTimes()
    for rows in seen:
        times.add(rows, 3_000_000)
    assert times.row_ns == 0
    assert times.expected_ns(9) == pytest.approx(3e6 if seen else 1e7)


def test_rows_that_cost_as_much_as_a_pass_keep_windows_short() -> None:
    def window(row_ns: float) -> int:
        rule = BestWindow(pace_of(1e7, row_ns), 8, by_chance=False)
        rule.pace.draft_token_ns.value = 1e5
        return rule.draft_budget()

    windows = [window(share * 1e7) for share in (0, 0.1, 0.5, 1)]
    assert windows == sorted(windows, reverse=True)
    assert windows[0] == 8
    assert windows[-1] == 1
