"""What a load test sends, and in which order."""

from collections import Counter
from pathlib import Path
from typing import Any

from loadtest.segment import Segment
from loadtest.settings import LoadtestSettings


def segments(**values: Any) -> list[Segment]:
    settings = LoadtestSettings(**values).checked()
    return list(settings.segments(settings.workload()))


def test_tokens_are_compared_first_and_then_levels_and_arms_take_turns() -> None:
    found = segments(concurrency=(4, 1), arms=("off", "auto"), rounds=2)
    order = [(each.timed, each.round_number, each.level.concurrency, each.arm.value) for each in found]
    turns = [(False, 0, "off", "auto"), (True, 0, "off", "auto"), (True, 1, "auto", "off")]
    assert order == [(timed, number, users, arm) for timed, number, *arms in turns for users in (1, 4) for arm in arms]


def test_a_run_has_as_many_requests_as_its_level_was_given() -> None:
    found = {each.level.concurrency: each.requests for each in segments(concurrency=(4, 1), requests=(9, 2), rounds=1)}
    assert found == {1: 2, 4: 9}
    for_all = segments(concurrency=(1, 4), requests=(5,), rounds=1, compare=0)
    assert {(each.requests, each.duration_s) for each in for_all} == {(5, None)}


def test_whatever_the_rates_tokens_are_compared_once() -> None:
    found = [each for each in segments(rate=(1, 2), arms=("off", "auto"), rounds=1) if not each.timed]
    assert [each.arm.value for each in found] == ["off", "auto"]


def test_arms_have_the_same_prompts_and_levels_and_rounds_have_others() -> None:
    stages = Counter(each.stage for each in segments(concurrency=(1, 4), arms=("off", "auto"), rounds=2))
    assert set(stages.values()) == {2}
    assert len(stages) == 2 * (1 + 2)


def test_prompts_that_are_compared_are_equal_and_those_that_are_timed_begin_anew_in_each_arm_and_test() -> None:
    twice = [segment for _ in range(2) for segment in segments(concurrency=(1,), arms=("off", "auto"), rounds=1)]
    asked = {timed: [each.planned(3).request for each in twice if each.timed is timed] for timed in (True, False)}
    assert Counter(request.prompt for request in asked[False]).most_common() == [(asked[False][0].prompt, 4)]
    assert len({request.prompt for request in asked[True]}) == 4
    assert len({(request.seed, request.max_tokens) for request in asked[True]}) == 1


def test_a_rate_is_an_open_loop_whose_requests_are_the_same_in_every_arm() -> None:
    off, auto = (each for each in segments(rate=(2,), arms=("off", "auto"), rounds=1, cancel=0.5) if each.timed)
    assert (off.level.rate, off.level.concurrency) == (2, None)
    leaving = [[each.planned(index).leave_after_tokens for index in range(40)] for each in (off, auto)]
    assert leaving[0] == leaving[1]
    assert 10 < leaving[0].count(None) < 30


def test_with_a_file_of_prompts_the_timed_runs_are_compared_as_well(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two"}')
    of_file, built_in = (segments(prompts=prompts, rounds=1, compare=0) for prompts in ((str(file),), ("code",)))
    assert not any(each.own_head for each in of_file)
    assert all(each.own_head for each in built_in)
