"""The benchmark of prompts compares orders, forgets what earlier runs fed, and says which goals were missed."""

from typing import Any

import pytest

from benchmarks.prefill import GoalFigure, RoundRobin, cut, forget_prompts, main, show
from sybil_engine.core.prefill import Prefill
from sybil_engine.models.pages import PagePool
from tests.unit.core.test_prefill import prompts_of

PAGE = 4


def test_round_robin_feeds_every_prompt_before_any_a_second_time() -> None:
    prompts: list[Any] = [*prompts_of(20, 20, 20)]
    prefill: Prefill[Any] = Prefill(PAGE, PAGE, 1.0, RoundRobin())
    fed = []
    while part := prefill.next_part(prompts, due=False):
        session, tokens = part
        session.prefill_tokens -= tokens
        fed.append(session.number)
    assert fed == [0, 1, 2] * 5


def test_prompts_share_no_beginning_and_are_forgotten_between_runs() -> None:
    text = tuple(range(500))
    prompts = [cut(text, 12, number) for number in range(6)]
    assert len({prompt[:1] for prompt in prompts}) == 6
    pool = PagePool(pages=30, cells=10 * PAGE, sessions=4, page_cells=PAGE)
    for prompt in prompts:
        slot = pool.allocate()
        pool.reserve(slot, range(12))
        pool.share(slot, 0, prompt)
        pool.release(slot)
    forget_prompts(pool)
    assert (pool.room, pool.open_slots) == (30, 0)
    assert pool.reuse(pool.allocate(), prompts[0]) == 0


def test_a_goal_that_is_missed_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    show([GoalFigure("pause", 3.4, 3.0, "a, b"), GoalFigure("growth", 1.0, 1.3, "c")], differing=2)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("missed") == 1
    assert "differ from quiet ones: 2" in said


def test_bad_input_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--repeats", "0"], "--repeats, --seconds and --prompts must be at least 1"),
        (["--speculation", "sideways"], "invalid choice: 'sideways'"),
        (["--prefill-share", "0"], "prefill_share is 0.0; it must be between 0.05 and 64.0"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
        assert words in capsys.readouterr().err
