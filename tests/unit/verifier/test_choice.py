"""The adaptive choice finds the fastest way, follows what changes, and never drafts where that does not pay."""

import math
import random
from collections import Counter

import pytest

from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.types import Speculation
from tests.unit.verifier.paces import pace_of
from verifier_service.policy.adaptive import Adaptive
from verifier_service.policy.choice import WAYS, Choice
from verifier_service.policy.rule import PassOutcome, State

PASS_NS = 1e7
# Tokens a pass without drafts would take time for.
GAINS = {Speculation.LOCKSTEP: 1.4, Speculation.PIPELINED: 1.5, Speculation.HEDGED: 2.0}


def run_session(
    choice: Choice, gains: dict[Speculation, float], passes: int, *, level: float = 1.0, seed: int = 0
) -> tuple[Adaptive, Counter[Speculation], float]:
    """Run a session whose passes commit 1 to 4 tokens, at random, at the gains given.

    Args:
        level: what all gains are multiplied by: how predictable the text is.

    Returns:
        The session, its passes by way, and its speed as a multiple of plain decoding.
    """
    chance = random.Random(seed)
    rule = Adaptive(pace_of(PASS_NS), 8, choice)
    ways: Counter[Speculation] = Counter()
    now_ns = tokens = 0
    for _ in range(passes):
        way = way_of(rule)
        ways[way] += 1
        committed = 1 if way is Speculation.OFF else chance.randint(1, 4)
        gain = 1.0 if way is Speculation.OFF else level * gains[way]
        now_ns += int((committed if way is Speculation.OFF else 2.5) * PASS_NS / gain)
        tokens += committed
        rule.learn(PassOutcome(committed, now_ns, PASS_NS))
    return rule, ways, tokens * PASS_NS / now_ns


def way_of(rule: Adaptive) -> Speculation:
    """How the next pass speculates."""
    return rule.next(State(0)).speculation


def test_the_fastest_way_is_taken_most_of_the_time_and_the_rest_costs_little() -> None:
    choice = Choice()
    for seed in range(10):
        run_session(choice, GAINS, 60, level=1 + seed % 3, seed=seed)
    assert choice.best is Speculation.HEDGED
    _, ways, speed = run_session(choice, GAINS, 4000)
    assert ways[Speculation.HEDGED] > 0.85 * 4000
    assert speed > 0.95 * GAINS[Speculation.HEDGED]


@pytest.mark.parametrize("fastest", [Speculation.LOCKSTEP, Speculation.PIPELINED])
def test_the_choice_follows_what_changes_and_comes_back(fastest: Speculation) -> None:
    choice = Choice()
    run_session(choice, GAINS, 1000)
    run_session(choice, {**GAINS, fastest: 3.0}, 4000)
    assert choice.best is fastest
    run_session(choice, GAINS, 6000)
    assert choice.best is Speculation.HEDGED


def test_sessions_of_easy_and_hard_texts_do_not_mislead_it() -> None:
    choice = Choice()
    chance = random.Random(1)
    for seed in range(100):
        run_session(choice, GAINS, 40, level=chance.choice((0.8, 1.0, 2.0)), seed=seed)
    assert choice.best is Speculation.HEDGED
    assert math.exp(choice.relative_speed(Speculation.LOCKSTEP)) == pytest.approx(0.7, abs=0.15)


def test_a_text_on_which_drafting_does_not_pay_is_decoded_plainly_but_for_a_trial_now_and_then() -> None:
    rule, ways, speed = run_session(Choice(), GAINS, 4000, level=0.45)
    assert ways[Speculation.OFF] > 0.9 * 4000
    assert speed > 0.95
    assert rule.reason.startswith("off: ")


def test_the_same_verifier_still_drafts_where_it_pays() -> None:
    choice = Choice()
    run_session(choice, GAINS, 500, level=0.4)
    _, ways, _ = run_session(choice, GAINS, 500)
    assert ways[Speculation.OFF] < 0.05 * 500


def test_every_way_is_tried_and_the_session_says_why() -> None:
    rule, ways, _ = run_session(Choice(), GAINS, 600)
    assert set(ways) == {*WAYS, Speculation.OFF}
    assert ways[Speculation.OFF] <= 8, "one stretch, to see how fast plain decoding is"
    assert "hedged is fastest here (pipelined -" in rule.reason
    assert "acceptance 0.70" in rule.reason


def test_sessions_in_step_compare_every_way_with_the_fastest() -> None:
    choice = Choice()
    rules = [Adaptive(pace_of(PASS_NS), 8, choice) for _ in range(12)]
    chance = random.Random(2)
    clocks = [0] * len(rules)
    for _ in range(2000):
        for place, rule in enumerate(rules):
            clocks[place] += int(2.5 * PASS_NS / GAINS.get(way_of(rule), 1.0))
            rule.learn(PassOutcome(chance.randint(1, 4), clocks[place], PASS_NS))
    assert choice.best is Speculation.HEDGED
    for way in (Speculation.LOCKSTEP, Speculation.PIPELINED):
        assert math.exp(choice.relative_speed(way)) == pytest.approx(GAINS[way] / GAINS[Speculation.HEDGED], abs=0.15)


def test_time_that_plain_decoding_would_also_take_stops_no_drafting() -> None:
    rule = Adaptive(pace_of(PASS_NS), 8, Choice())
    prompts_ns = 5 * PASS_NS
    ways: Counter[Speculation] = Counter()
    for number in range(1, 800):
        ways[way_of(rule)] += 1
        rule.learn(PassOutcome(2, int(number * (1.2 * PASS_NS + prompts_ns)), PASS_NS + prompts_ns))
    assert ways[Speculation.OFF] <= 8, "but for one stretch, to see how fast plain decoding is"


@pytest.mark.parametrize(("shares", "first", "last"), [(True, "lockstep", "hedged"), (False, "hedged", "lockstep")])
def test_on_a_shared_processor_draft_then_verify_comes_first_and_elsewhere_last(
    shares: bool, first: str, last: str
) -> None:
    choice = Choice(shares_processor=shares)
    assert choice.best.value == first
    assert min(WAYS, key=choice.relative_speed).value == last


@pytest.mark.parametrize(("row_share", "first"), [(0.0, "hedged"), (0.01, "hedged"), (0.05, "pipelined")])
def test_where_rows_are_costly_hedges_do_not_come_first(row_share: float, first: str) -> None:
    times = PassTimes()
    choice = Choice(pass_times=times)
    for rows in (1, 5, 9) * 5:
        times.add(rows, int(PASS_NS * (1 + row_share * (rows - 1))))
    assert times.row_share == pytest.approx(row_share, abs=1e-3)
    assert choice.best.value == first


def test_what_is_measured_outweighs_where_the_models_run() -> None:
    choice = Choice(shares_processor=True)
    for seed in range(20):
        run_session(choice, GAINS, 100, seed=seed)
    assert choice.best is Speculation.HEDGED


def test_where_drafting_rarely_pays_short_sessions_begin_without_it_but_it_comes_back() -> None:
    choice = Choice()
    for seed in range(100):
        run_session(choice, GAINS, 20, level=0.4, seed=seed)
    ways = [run_session(choice, GAINS, 20, level=0.4, seed=seed)[1] for seed in range(40)]
    assert sum(each[Speculation.OFF] for each in ways) > 0.7 * 40 * 20
    assert choice.gains[False].value > 0, "sampled sessions are another matter"
    for seed in range(300):
        run_session(choice, GAINS, 20, seed=seed)
    after = [run_session(choice, GAINS, 20, seed=seed)[1] for seed in range(20)]
    assert sum(each[Speculation.OFF] for each in after) <= 0.05 * 20 * 20


def test_the_reason_tells_what_was_measured_from_what_is_expected() -> None:
    rule = Adaptive(pace_of(PASS_NS), 8, Choice())
    assert "hedged should be fastest here" in rule.reason
    assert "lockstep -30%, not tried yet" in rule.reason
    assert "not measured yet on this text" in rule.reason
    rule, _, _ = run_session(Choice(), GAINS, 600)
    assert "not tried yet" not in rule.reason
    assert "x plain decoding on this text" in rule.reason
