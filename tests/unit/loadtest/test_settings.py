"""What a load test sends, and in which order."""

from collections import Counter
from typing import Any

from loadtest.segment import Segment
from loadtest.settings import LoadtestSettings


def segments(**values: Any) -> list[Segment]:
    settings = LoadtestSettings(**values).checked()
    return list(settings.segments(settings.workload()))


def test_at_each_level_tokens_are_compared_first_and_then_the_arms_take_turns() -> None:
    found = segments(concurrency=(4, 1), arms=("off", "auto"), rounds=2)
    order = [(each.level.concurrency, each.timed, each.round_number, each.arm.value) for each in found]
    one_level = [
        (False, 0, "off"),
        (False, 0, "auto"),
        (True, 0, "off"),
        (True, 0, "auto"),
        (True, 1, "auto"),
        (True, 1, "off"),
    ]
    assert order == [(users, *each) for users in (1, 4) for each in one_level]


def test_prompts_that_are_compared_are_equal_and_those_that_are_timed_begin_anew_in_each_arm_and_test() -> None:
    twice = [segment for _ in range(2) for segment in segments(concurrency=(1,), arms=("off", "auto"), rounds=1)]
    asked = {timed: [each.planned(3, 0).request for each in twice if each.timed is timed] for timed in (True, False)}
    assert Counter(request.prompt for request in asked[False]).most_common() == [(asked[False][0].prompt, 4)]
    assert len({request.prompt for request in asked[True]}) == 4
    assert len({(request.seed, request.max_tokens) for request in asked[True]}) == 1


def test_a_rate_is_an_open_loop_whose_requests_are_the_same_in_every_arm() -> None:
    off, auto = (each for each in segments(rate=(2,), arms=("off", "auto"), rounds=1, cancel=0.5) if each.timed)
    assert (off.level.rate, off.level.concurrency) == (2, None)
    leaving = [[each.planned(index, 0).leave_after_tokens for index in range(40)] for each in (off, auto)]
    assert leaving[0] == leaving[1]
    assert 10 < leaving[0].count(None) < 30
