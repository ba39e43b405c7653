"""Emulated times are kept more closely than a sleep keeps them."""

import time
from collections.abc import Callable
from statistics import median

from sybil_engine.timing import sleep_until

_LENGTH_S = 0.002


def late_s(wait: Callable[[float], None]) -> float:
    moment_s = time.monotonic() + _LENGTH_S
    wait(moment_s)
    return time.monotonic() - moment_s


def test_waiting_for_a_moment_is_never_early_and_nearer_to_it_than_a_sleep() -> None:
    waited, slept = [], []
    for _ in range(100):
        waited.append(late_s(sleep_until))
        slept.append(late_s(lambda moment_s: time.sleep(max(0.0, moment_s - time.monotonic()))))
    assert min(waited) >= 0
    assert median(waited) < median(slept) / 2


def test_a_moment_that_has_passed_is_not_waited_for() -> None:
    start = time.monotonic()
    sleep_until(start - 1)
    assert time.monotonic() - start < 1
