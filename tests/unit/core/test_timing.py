"""Emulated times are kept more closely than a sleep keeps them."""

import time

import pytest

from sybil_engine.core.timing import sleep_until


def test_the_processor_is_left_to_others_until_shortly_before_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s: list[float] = []
    sleep = time.sleep

    def noted_sleep(seconds: float) -> None:
        slept_s.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted_sleep)
    moment_s = time.monotonic() + 0.05
    sleep_until(moment_s)
    assert time.monotonic() >= moment_s
    # Sleeping the whole time would end late, by the kernel's timer slack and the time that a core takes to wake up.
    assert 0.04 < sum(slept_s) < 0.05


def test_a_moment_that_has_passed_is_not_waited_for() -> None:
    start = time.monotonic()
    sleep_until(start - 1)
    assert time.monotonic() - start < 1
