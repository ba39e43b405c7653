"""Every peer keeps the laws that its paper, or arithmetic, lays down."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from simulator.players.amusd import amusd
from simulator.players.dsi import dsi
from simulator.players.pearl import pearl
from simulator.players.player import Outcome, Player
from simulator.players.ssd import geometric_fan_outs, miss_exponent, ssd, uniform_fan_outs
from simulator.point import Point
from simulator.trace import RANKS, Trace
from tests.unit.simulator.synthetic import synthetic_trace

LONG = 20_000
ACCEPTANCES = pytest.mark.parametrize("acceptance_rate", [0.5, 0.7, 0.85])


def speed_up(player: Player, trace: Trace, point: Point) -> float:
    return player(trace, point).tokens_per_second * point.verify_ms / 1e3


def committed(acceptance_rate: float, window_tokens: int) -> float:
    return (1 - acceptance_rate ** (window_tokens + 1)) / (1 - acceptance_rate)


def lockstep(window_tokens: int) -> Player:
    """Draft-then-verify: nothing is prepared."""
    return partial(ssd, (0,) * (window_tokens + 1))


def prepared(window_tokens: int) -> Player:
    """SSD with the same guesses after each number of accepted tokens."""
    return partial(ssd, uniform_fan_outs(window_tokens))


PEERS = {
    "lockstep": lockstep(4),
    "PEARL": partial(pearl, 4),
    "AMUSD": partial(amusd, 8),
    "SSD": prepared(4),
    "DSI": partial(dsi, 3),
}


# ------------------------------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("window_tokens", [1, 4, 7])
def test_a_perfect_drafter_that_takes_no_time_gives_a_window_and_one_token_a_pass(window_tokens: int) -> None:
    trace = synthetic_trace(40 * (window_tokens + 1), [1.0])
    for player in (lockstep(window_tokens), partial(amusd, window_tokens), prepared(window_tokens)):
        outcome = player(trace, Point(30, 0, 0))
        assert outcome.passes == 40, player
        assert outcome.duration_ms == pytest.approx(40 * 30)
        assert outcome.idle_ms == 0


@pytest.mark.parametrize("window_tokens", [1, 4, 7])
def test_lockstep_with_a_drafter_that_is_never_right_pays_the_whole_round_for_each_token(window_tokens: int) -> None:
    trace = synthetic_trace(100, [0.0])
    outcome = lockstep(window_tokens)(trace, Point(30, 3, 7, row_ms=0.5))
    # The last token is there before its commit travels.
    assert outcome.duration_ms == pytest.approx(100 * (30 + window_tokens * (3 + 0.5) + 7) - 7 / 2)
    assert outcome.tokens_per_pass == 1


# --------------------------------------------------------------------------------------------------------- closed forms


@ACCEPTANCES
@pytest.mark.parametrize("window_tokens", [2, 5])
def test_lockstep_meets_its_closed_form(acceptance_rate: float, window_tokens: int) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate])
    point = Point(30, 3, 6)
    expected = committed(acceptance_rate, window_tokens) / (1 + window_tokens * 0.1 + 0.2)
    assert speed_up(lockstep(window_tokens), trace, point) == pytest.approx(expected, rel=0.02)


@ACCEPTANCES
@pytest.mark.parametrize("window_tokens", [2, 5, 10])
def test_pearl_meets_its_closed_form(acceptance_rate: float, window_tokens: int) -> None:
    # A cycle: 1 / a passes that yield a token each until one is accepted, then windows until one is not.
    windows = 1 + acceptance_rate ** (window_tokens - 1) / (1 - acceptance_rate**window_tokens)
    tokens = 1 / acceptance_rate + 1 / (1 - acceptance_rate)
    expected = tokens / (1 / acceptance_rate + windows)
    trace = synthetic_trace(LONG, [acceptance_rate])
    assert speed_up(partial(pearl, window_tokens), trace, Point(30, 3, 0)) == pytest.approx(expected, rel=0.02)


@ACCEPTANCES
def test_pearl_with_a_cheap_drafter_reaches_its_limit_and_no_more(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate])
    limit = 1 / (1 - acceptance_rate**2)
    assert speed_up(partial(pearl, 200), trace, Point(30, 0, 0)) == pytest.approx(limit, rel=0.02)


@ACCEPTANCES
def test_ssd_whose_outcomes_are_always_prepared_commits_a_window_a_period(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate, 1 - acceptance_rate])
    expected = committed(acceptance_rate, 5) / (1 + 0.2)
    assert speed_up(prepared(5), trace, Point(30, 3, 6)) == pytest.approx(expected, rel=0.02)


@ACCEPTANCES
def test_dsi_with_enough_targets_waits_for_the_drafter_and_one_pass_a_rejection(acceptance_rate: float) -> None:
    trace = synthetic_trace(LONG, [acceptance_rate])
    accepted = acceptance_rate / (1 - acceptance_rate)
    expected = (accepted + 1) / (1 + 0.1 * accepted)
    assert speed_up(partial(dsi, 10), trace, Point(30, 3, 0)) == pytest.approx(expected, rel=0.02)
    speeds = [speed_up(partial(dsi, replicas), trace, Point(30, 3, 0)) for replicas in (1, 2, 5, 10)]
    assert speeds == sorted(speeds)


# ------------------------------------------------------------------------------------------------------------ everybody


@pytest.mark.parametrize("player", PEERS.values(), ids=PEERS)
def test_playing_again_changes_nothing(player: Player) -> None:
    first, again = (player(synthetic_trace(300, [0.7, 0.1, 0.1]), Point(30, 3, 1)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("rtt_ms", [0, 1, 40])
# DSI's passes overlap.
@pytest.mark.parametrize("player", list(PEERS.values())[:-1], ids=list(PEERS)[:-1])
def test_time_is_passes_and_the_waits_between_them(player: Player, rtt_ms: float) -> None:
    outcome = player(synthetic_trace(500, [0.7, 0.1, 0.1]), Point(30, 3, rtt_ms))
    assert outcome.tokens == 500
    assert outcome.duration_ms == pytest.approx(30 * outcome.passes + outcome.idle_ms)


def test_outcomes_add_up() -> None:
    one, ten = Outcome(1, 2, 3.0, 4.0, 5, 6.0), Outcome(10, 20, 30.0, 40.0, 50, 60.0)
    assert one + ten == Outcome(11, 22, 33.0, 44.0, 55, 66.0)


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
