"""Every player keeps the laws that its paper, or arithmetic, lays down."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.calibration import Calibrated, Calibration
from simulator.guess_tree import GuessTree
from simulator.launch import BestPass, LaunchRule, LongRun, Seen, Wait
from simulator.players.amusd import Amusd
from simulator.players.dsi import Dsi
from simulator.players.lockstep import Lockstep, Plain
from simulator.players.pearl import Pearl
from simulator.players.player import Outcome, Player
from simulator.players.pushed import Pushed
from simulator.players.ssd import Ssd, geometric_fan_outs, miss_exponent, uniform_fan_outs
from simulator.point import Point
from simulator.rows import BranchRows, RowControl, TreeRows, TrunkRows
from simulator.synthetic import synthetic_trace
from simulator.trace import RANKS, Trace

LONG = 20_000
LAUNCHES = pytest.mark.parametrize("launch", [BestPass(), LongRun()], ids=["best-pass", "long-run"])
ACCEPTANCES = pytest.mark.parametrize("acceptance_rate", [0.5, 0.7, 0.85])


def pushed(
    trace: Trace, *, launch: LaunchRule | None = None, rows: RowControl | None = None, draft_rows: int = 1
) -> Pushed:
    return Pushed(Calibration.of([trace]), launch or LongRun(), rows or TrunkRows(16), draft_rows)


def speed_up(player: Player, trace: Trace, point: Point) -> float:
    return player.play(trace, point).tokens_per_second * point.verify_ms / 1e3


def committed(acceptance_rate: float, window_tokens: int) -> float:
    return (1 - acceptance_rate ** (window_tokens + 1)) / (1 - acceptance_rate)


def every_player(trace: Trace) -> list[Player]:
    return [
        Plain(),
        Lockstep(4),
        Lockstep(4, shared=False),
        Pearl(4),
        Amusd(8),
        Ssd(4, uniform_fan_outs(4)),
        Dsi(3),
        pushed(trace),
        pushed(trace, launch=BestPass(), draft_rows=8),
        pushed(trace, rows=BranchRows(16, 3), draft_rows=8),
        pushed(trace, rows=TreeRows(32), draft_rows=8),
    ]


# ------------------------------------------------------------------------------------------------------------- extremes


@LAUNCHES
@pytest.mark.parametrize("window_tokens", [1, 4, 7])
def test_a_perfect_drafter_that_takes_no_time_gives_a_window_and_one_token_a_pass(
    window_tokens: int, launch: LaunchRule
) -> None:
    trace = synthetic_trace(40 * (window_tokens + 1), [1.0])
    point = Point(30, 0, 0)
    for player in (
        Lockstep(window_tokens),
        Amusd(window_tokens),
        Ssd(window_tokens, uniform_fan_outs(window_tokens)),
        pushed(trace, launch=launch, rows=TrunkRows(window_tokens)),
        pushed(trace, launch=launch, rows=TreeRows(window_tokens), draft_rows=8),
    ):
        outcome = player.play(trace, point)
        assert outcome.passes == 40, player
        assert outcome.duration_ms == pytest.approx(40 * 30)
        assert outcome.idle_ms == 0


@pytest.mark.parametrize("window_tokens", [1, 4, 7])
def test_lockstep_with_a_drafter_that_is_never_right_pays_the_whole_round_for_each_token(window_tokens: int) -> None:
    trace = synthetic_trace(100, [0.0])
    outcome = Lockstep(window_tokens).play(trace, Point(30, 3, 7, row_ms=0.5))
    assert outcome.duration_ms == pytest.approx(100 * (30 + window_tokens * (3 + 0.5) + 7))
    assert outcome.tokens_per_pass == 1


@LAUNCHES
@pytest.mark.parametrize("point", [Point(30, 3, 1), Point(30, 1.5, 15), Point(12, 1, 0.2)], ids=str)
def test_with_a_drafter_that_is_never_right_ours_is_plain_decoding_once_it_knows(
    launch: LaunchRule, point: Point
) -> None:
    trace = synthetic_trace(1_000, [0.0])
    for player in (pushed(trace, launch=launch), pushed(trace, launch=launch, rows=TreeRows(32), draft_rows=8)):
        outcome = player.play(trace, point)
        plain_ms = len(trace) * point.verify_ms
        assert outcome.passes == len(trace)
        assert outcome.duration_ms == pytest.approx(plain_ms + outcome.idle_ms)
        assert outcome.idle_ms < 0.03 * plain_ms


@LAUNCHES
def test_a_drafter_slower_than_its_target_costs_next_to_nothing(launch: LaunchRule) -> None:
    trace = synthetic_trace(1_000, [0.8, 0.1])
    assert speed_up(pushed(trace, launch=launch), trace, Point(30, 60, 1)) > 0.99


# --------------------------------------------------------------------------------------------------------- closed forms


@ACCEPTANCES
@pytest.mark.parametrize("window_tokens", [2, 5])
def test_lockstep_meets_its_closed_form(acceptance_rate: float, window_tokens: int) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate])
    point = Point(30, 3, 6)
    expected = committed(acceptance_rate, window_tokens) / (1 + window_tokens * 0.1 + 0.2)
    assert speed_up(Lockstep(window_tokens), trace, point) == pytest.approx(expected, rel=0.02)


@ACCEPTANCES
@pytest.mark.parametrize("window_tokens", [2, 5, 10])
def test_pearl_meets_its_closed_form(acceptance_rate: float, window_tokens: int) -> None:
    # A cycle: 1 / a passes that yield a token each until one is accepted, then windows until one is not.
    windows = 1 + acceptance_rate ** (window_tokens - 1) / (1 - acceptance_rate**window_tokens)
    tokens = 1 / acceptance_rate + 1 / (1 - acceptance_rate)
    expected = tokens / (1 / acceptance_rate + windows)
    trace = synthetic_trace(LONG, [acceptance_rate])
    assert speed_up(Pearl(window_tokens), trace, Point(30, 3, 0)) == pytest.approx(expected, rel=0.02)


@ACCEPTANCES
def test_pearl_with_a_cheap_drafter_reaches_its_limit_and_no_more(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate])
    limit = 1 / (1 - acceptance_rate**2)
    assert speed_up(Pearl(200), trace, Point(30, 0, 0)) == pytest.approx(limit, rel=0.02)


@ACCEPTANCES
def test_ssd_whose_outcomes_are_always_prepared_commits_a_window_a_period(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate, 1 - acceptance_rate])
    expected = committed(acceptance_rate, 5) / (1 + 0.2)
    assert speed_up(Ssd(5, uniform_fan_outs(5)), trace, Point(30, 3, 6)) == pytest.approx(expected, rel=0.02)


@ACCEPTANCES
def test_ssd_whose_outcomes_are_never_prepared_is_lockstep(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate])
    point = Point(30, 3, 6)
    unprepared = Ssd(5, (0,) * 6).play(trace, point)
    assert unprepared.duration_ms == pytest.approx(Lockstep(5).play(trace, point).duration_ms, abs=6)


@ACCEPTANCES
def test_dsi_with_enough_targets_waits_for_the_drafter_and_one_pass_a_rejection(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate])
    accepted = acceptance_rate / (1 - acceptance_rate)
    expected = (accepted + 1) / (1 + 0.1 * accepted)
    assert speed_up(Dsi(10), trace, Point(30, 3, 0)) == pytest.approx(expected, rel=0.02)
    speeds = [speed_up(Dsi(replicas), trace, Point(30, 3, 0)) for replicas in (1, 2, 5, 10)]
    assert speeds == sorted(speeds)


@ACCEPTANCES
def test_ours_without_overhead_commits_a_full_window_a_pass(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG // 4, [acceptance_rate])
    player = pushed(trace, rows=TrunkRows(5))
    limit = speed_up(player, trace, Point(30, 3, 6).without_overhead())
    assert limit == pytest.approx(committed(acceptance_rate, 5), rel=0.02)


# --------------------------------------------------------------------------------------------------------------- hedges


class WaitForOne:
    """Starts as soon as anything is there."""

    def wait(self, point: Point, seen: Seen, ready_tokens: int) -> Wait:
        return Wait(1, 1e9)


def test_a_hedge_that_always_holds_the_correction_removes_the_waits() -> None:
    trace = synthetic_trace(1_000, [0.6, 0.4])
    point = Point(30, 1, 1)
    alone = pushed(trace, launch=WaitForOne()).play(trace, point)
    hedged = pushed(trace, launch=WaitForOne(), draft_rows=64).play(trace, point)
    # After a miss: the way there and back, the draft pass under way, and another one.
    misses = alone.passes * 0.6
    assert misses * 2 < alone.idle_ms < alone.passes * 3
    # Nothing is waited for but the first token, and hedges too unlikely to be drafted.
    assert hedged.idle_ms < 0.02 * alone.idle_ms


def test_a_hedge_that_never_holds_the_correction_changes_nothing() -> None:
    trace = synthetic_trace(500, [0.6])
    point = Point(30, 3, 1)
    assert pushed(trace, draft_rows=8).play(trace, point) == pushed(trace).play(trace, point)


def test_a_tree_that_holds_every_correction_commits_more_than_any_window() -> None:
    trace = synthetic_trace(1_000, [0.6, 0.4])
    tree = pushed(trace, rows=TreeRows(62), draft_rows=64).play(trace, Point(30, 1, 1).without_overhead())
    # 62 rows hold both guesses of five positions in a row.
    assert tree.tokens_per_pass > 5.5
    assert tree.tokens_per_pass > 2 * committed(0.6, 50)


@LAUNCHES
@pytest.mark.parametrize("seed", range(3))
def test_more_draft_rows_and_trees_are_worth_having(launch: LaunchRule, seed: int) -> None:
    trace = synthetic_trace(500, [0.7, 0.15, 0.05], seed)
    point = Point(30, 1.5, 15)
    speeds = [
        speed_up(player, trace, point)
        for player in (
            pushed(trace, launch=launch),
            pushed(trace, launch=launch, draft_rows=8),
            pushed(trace, launch=launch, rows=BranchRows(16, 3), draft_rows=8),
            pushed(trace, launch=launch, rows=TreeRows(32), draft_rows=8),
        )
    ]
    assert speeds[0] * 1.1 < speeds[1] < speeds[2] / 1.03
    assert speeds[1] < speeds[3] / 1.03


def test_a_drafter_rates_a_token_that_was_committed_without_its_knowing_like_any_other() -> None:
    trace = synthetic_trace(500, [0.6, 0.4])
    calibrated = Calibrated(trace, Calibration.of([trace]))
    tree = GuessTree(calibrated)
    committed_first = tree.committed(0)
    children = tree.expand(tree.root)
    assert committed_first in children
    assert [guess.cost for guess in children] == calibrated.costs[0]


def test_branches_that_hold_no_correction_are_no_worse_than_none() -> None:
    trace = synthetic_trace(500, [0.6])
    point = Point(30, 3, 1)
    branched = pushed(trace, rows=BranchRows(16, 3), draft_rows=8).play(trace, point)
    assert branched == pushed(trace).play(trace, point)


@pytest.mark.parametrize("rows", [TrunkRows(16), BranchRows(16, 3), TreeRows(32)], ids=lambda rows: type(rows).__name__)
def test_costly_rows_are_left_out(rows: RowControl) -> None:
    trace = synthetic_trace(500, [0.6, 0.2])
    free, costly = (pushed(trace, rows=rows, draft_rows=8).play(trace, Point(30, 1, 1, row_ms)) for row_ms in (0, 20))
    assert costly.tokens_per_pass < free.tokens_per_pass - 1
    # Nobody is made slower than plain decoding by rows that do not pay.
    assert costly.duration_ms < 1.01 * len(trace) * 30


# ------------------------------------------------------------------------------------------------------------ everybody


@pytest.mark.parametrize("seed", range(3))
def test_playing_again_changes_nothing(seed: int) -> None:
    point = Point(30, 3, 1)
    first, again = (
        [player.play(trace, point) for player in every_player(trace)]
        for trace in (synthetic_trace(300, [0.7, 0.1, 0.1], seed) for _ in range(2))
    )
    assert first == again


@pytest.mark.parametrize("round_trip_ms", [0, 1, 40])
def test_time_is_passes_and_the_waits_between_them(round_trip_ms: float) -> None:
    trace = synthetic_trace(500, [0.7, 0.1, 0.1])
    # DSI's passes overlap.
    for player in (each for each in every_player(trace) if not isinstance(each, Dsi)):
        outcome = player.play(trace, Point(30, 3, round_trip_ms))
        assert outcome.tokens == 500
        assert outcome.duration_ms == pytest.approx(30 * outcome.passes + outcome.idle_ms), player


@pytest.mark.parametrize("seed", range(3))
def test_no_arm_on_a_trunk_beats_its_limit(seed: int) -> None:
    trace = synthetic_trace(200, [0.7, 0.15, 0.05], seed)
    for point in (Point(30, 3, 1), Point(30, 1.5, 15), Point(12, 1, 0.2)):
        for draft_rows in (1, 8):
            player = pushed(trace, draft_rows=draft_rows)
            assert player.play(trace, point).passes >= player.play(trace, point.without_overhead()).passes


def test_outcomes_add_up() -> None:
    one, ten = Outcome(1, 2, 3.0, 4.0, 5, 6.0), Outcome(10, 20, 30.0, 40.0, 50, 60.0)
    assert one + ten == Outcome(11, 22, 33.0, 44.0, 55, 66.0)


def test_decoding_begins_behind_the_first_pass() -> None:
    trace = synthetic_trace(48, [1.0])
    point = Point(30, 3, 1)
    for player in (Plain(), Lockstep(5), pushed(trace, rows=TrunkRows(8))):
        first, outcome = player.play(synthetic_trace(1, [1.0]), point), player.play(trace, point)
        assert outcome.first_ms == pytest.approx(first.duration_ms), player
        later = [outcome.tokens - outcome.first_tokens, outcome.duration_ms - outcome.first_ms]
        assert outcome.decode_tokens_per_second == pytest.approx(1e3 * later[0] / later[1])
    assert [player.play(trace, point).first_tokens for player in (Plain(), Lockstep(5))] == [1, 6]


@pytest.mark.parametrize("most_tokens", [4, 8, 16])
def test_nothing_is_waited_for_beyond_the_longest_window(most_tokens: int) -> None:
    sure = Seen()
    sure.saw(200, 200)
    assert LongRun(most_tokens).wait(Point(30, 0.1, 15), sure, 0).tokens == most_tokens


# -------------------------------------------------------------------------------------------------------- SSD's guesses


@pytest.mark.parametrize("window_tokens", [1, 4, 9])
@pytest.mark.parametrize("acceptance_rate", [0.5, 0.7, 0.9])
def test_geometric_guesses_spend_the_same_budget_where_outcomes_are_likely(
    window_tokens: int, acceptance_rate: float
) -> None:
    fan_outs = geometric_fan_outs(window_tokens, acceptance_rate, exponent=1.0)
    assert sum(fan_outs) == sum(uniform_fan_outs(window_tokens))
    assert list(fan_outs[:-1]) == sorted(fan_outs[:-1], reverse=True)
    assert max(fan_outs) <= RANKS


def test_the_exponent_of_misses_is_found_again() -> None:
    # F guesses miss with the chance 1 / F.
    chances = [0.0] + [1 / guesses - 1 / (guesses + 1) for guesses in range(1, RANKS)]
    trace = synthetic_trace(LONG, chances)
    all_accepted = replace(trace, accepted=np.full(len(trace), True))
    assert miss_exponent([all_accepted]) == pytest.approx(1.0, rel=0.03)
