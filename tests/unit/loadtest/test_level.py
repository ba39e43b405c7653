"""When requests are due."""

from itertools import islice, pairwise, takewhile

import numpy as np
import pytest

from loadtest.level import poisson_arrivals, rotated, user_delays


def test_gaps_of_an_open_loop_are_exponential() -> None:
    gaps = np.diff(list(islice(poisson_arrivals(20, 0, "a"), 20_000)))
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.03)
    # As wide as their mean, and memoryless: a share of 1/e is longer than the mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_the_ramp_of_an_open_loop_sends_half_as_many() -> None:
    times = list(takewhile(lambda time_s: time_s < 200, poisson_arrivals(20, 100, "a")))
    in_ramp = [time_s for time_s in times if time_s < 100]
    assert len(in_ramp) == pytest.approx(1000, rel=0.1)
    assert len(times) - len(in_ramp) == pytest.approx(2000, rel=0.1)
    # A quarter of the ramp's requests come in its first half.
    assert sum(time_s < 50 for time_s in in_ramp) == pytest.approx(250, rel=0.2)
    assert all(one <= other for one, other in pairwise(times))


def test_equal_seeds_give_equal_times() -> None:
    first, again, other = (list(islice(poisson_arrivals(3, 1, seed), 5)) for seed in ("a", "a", "b"))
    assert first == again != other


def test_users_of_a_closed_loop_begin_evenly_over_the_ramp() -> None:
    assert user_delays(4, 2) == [0, 0.5, 1, 1.5]


def test_over_the_rounds_each_arm_is_first_once_and_none_is_left_out() -> None:
    orders = [rotated("abc", number) for number in range(3)]
    assert {order[0] for order in orders} == set("abc")
    assert all(sorted(order) == list("abc") for order in orders)
