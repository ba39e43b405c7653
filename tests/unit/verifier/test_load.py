"""Among other sessions `auto` goes by the speed of all of them, and by how many share a pass."""

import math
import random
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pytest

from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.types import Speculation
from sybil_engine.core.worth import Worth
from verifier_service.policy.adaptive import Adaptive
from verifier_service.policy.choice import Choice
from verifier_service.policy.load import Load, SharedPass
from verifier_service.policy.pace import Pace
from verifier_service.policy.rule import PassOutcome, State
from verifier_service.policy.trials import Trials
from verifier_service.policy.windows import BestWindow

OFF, LOCKSTEP, PIPELINED, HEDGED = Speculation.OFF, Speculation.LOCKSTEP, Speculation.PIPELINED, Speculation.HEDGED
PASS_NS, ROW_NS = 2e6, 3.7e5
DRAFTING_PAYS = {OFF: 1.0, LOCKSTEP: 1.3, PIPELINED: 1.15, HEDGED: 1.1}
IT_DOES_NOT = {OFF: 1.0, LOCKSTEP: 0.8, PIPELINED: 0.7, HEDGED: 0.6}
EXPECTED = {OFF: 0.0, LOCKSTEP: 0.1, PIPELINED: 0.05, HEDGED: 0.0}


def plain_ns(sessions: int) -> float:
    return PASS_NS + (sessions - 1) * ROW_NS


def measured_times() -> PassTimes:
    """Of the device that `plain_ns` describes."""
    times = PassTimes()
    for rows in (*range(1, 9), 16, 32, 64) * 5:
        times.add(rows, int(plain_ns(rows)))
    return times


def loaded(sessions: int, tokens: int | None = None) -> Load:
    """A load that has long been this."""
    load = Load()
    for _ in range(200):
        load.saw(SharedPass(sessions, sessions, tokens or sessions, int(plain_ns(sessions))))
    return load


class Device:
    """Passes of many sessions that all go the way that trials tell them, at set speeds.

    Attributes:
        ways: passes by way.
        elapsed_ns, plain_ns: the time that they took, and the time that plain decoding would have taken.
    """

    def __init__(self, sessions: int = 8, *, late: int = 0, seed: int = 0) -> None:
        """
        Args:
            late: passes after a change of the way that are slow, for drafters catch up.
        """
        self.sessions = sessions
        self.ways: Counter[Speculation] = Counter()
        self.elapsed_ns = self.plain_ns = 0.0
        self._late, self._since_change = late, 0
        self._random = random.Random(seed)
        self._last: Speculation | None = None

    def run(self, choice: Choice | Trials, speeds: Mapping[Speculation, float], passes: int) -> None:
        for _ in range(passes):
            trials = choice if isinstance(choice, Trials) else choice.trials
            way = trials.way
            self._since_change = 0 if way is not self._last else self._since_change + 1
            self._last = way
            self.ways[way] += 1
            tokens = self.sessions if way is OFF else sum(self._random.randint(1, 4) for _ in range(self.sessions))
            # What a pass commits differs, its time does not.
            mean_tokens = self.sessions * (1 if way is OFF else 2.5)
            slow = 3.0 if self._since_change < self._late else 1.0
            plain = plain_ns(self.sessions) / self.sessions
            elapsed_ns = slow * mean_tokens * plain / speeds[way]
            self.elapsed_ns += elapsed_ns
            self.plain_ns += tokens * plain
            shared = SharedPass(self.sessions, self.sessions, tokens, int(elapsed_ns))
            if isinstance(choice, Trials):
                choice.saw(shared, ROW_NS / PASS_NS)
            else:
                choice.load.saw(shared)
                choice.saw(shared, self.sessions)

    @property
    def speed(self) -> float:
        return self.plain_ns / self.elapsed_ns


# ---------------------------------------------------------------------------------------------------------------- load


@pytest.mark.parametrize(("sessions", "level"), [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4), (32, 5), (64, 6)])
def test_a_level_is_a_power_of_two(sessions: int, level: int) -> None:
    assert (loaded(sessions).level, loaded(sessions).about_sessions) == (level, sessions)
    assert loaded(sessions).company == (sessions > 1)


def test_a_load_between_two_levels_does_not_flap() -> None:
    load, levels = loaded(4), []
    for number in range(400):
        load.saw(SharedPass(5 + number // 15 % 2, 5, 5, 1))
        levels.append(load.level)
    assert sum(before != after for before, after in pairwise(levels)) <= 1


def test_a_load_that_comes_and_goes_is_followed_within_a_few_passes() -> None:
    load = loaded(1)
    for sessions, level in ((32, 5), (1, 0), (8, 3)):
        for _ in range(60):
            load.saw(SharedPass(sessions, sessions, sessions, 1))
        assert load.level == level


def test_a_row_costs_what_all_sessions_would_commit_in_its_time() -> None:
    prices = [loaded(sessions).price(ROW_NS) for sessions in (2, 8, 32)]
    assert prices == pytest.approx([sessions * ROW_NS / plain_ns(sessions) for sessions in (2, 8, 32)])
    assert prices == sorted(prices)


# -------------------------------------------------------------------------------------------------------------- trials


@pytest.mark.parametrize("sessions", [2, 8, 32])
@pytest.mark.parametrize("speeds", [DRAFTING_PAYS, IT_DOES_NOT, {**DRAFTING_PAYS, HEDGED: 1.6}], ids=str)
def test_the_fastest_way_of_all_is_found_and_the_search_costs_little(
    sessions: int, speeds: Mapping[Speculation, float]
) -> None:
    trials, device = Trials(EXPECTED), Device(sessions)
    device.run(trials, speeds, 1500)
    assert trials.best is max(speeds, key=speeds.__getitem__)
    after = Device(sessions, seed=1)
    after.run(trials, speeds, 3000)
    assert after.speed > 0.97 * max(speeds.values())


@pytest.mark.parametrize("speeds", [DRAFTING_PAYS, IT_DOES_NOT], ids=str)
def test_slower_ways_are_tried_seldom_but_never_given_up(speeds: Mapping[Speculation, float]) -> None:
    trials, device = Trials(EXPECTED), Device()
    device.run(trials, speeds, 1000)
    device.ways.clear()
    device.run(trials, speeds, 10_000)
    for way in speeds:
        assert way is trials.best or 0 < device.ways[way] < 0.04 * 10_000


def test_the_choice_follows_what_changes() -> None:
    trials, device = Trials(EXPECTED), Device()
    for speeds, passes in ((DRAFTING_PAYS, 1000), (IT_DOES_NOT, 3000), (DRAFTING_PAYS, 6000)):
        device.run(trials, speeds, passes)
        assert trials.best is max(speeds, key=speeds.__getitem__)


def test_passes_in_which_drafters_catch_up_are_not_held_against_a_way() -> None:
    trials = Trials({OFF: 0.0, LOCKSTEP: 0.0, PIPELINED: -0.5, HEDGED: -0.5})
    device = Device(late=3)
    device.run(trials, {OFF: 1.0, LOCKSTEP: 1.12, PIPELINED: 0.6, HEDGED: 0.6}, 3000)
    assert trials.best is LOCKSTEP


def test_a_minority_of_adaptive_sessions_draws_no_conclusions_from_the_speed_of_all() -> None:
    choice = Choice(pass_times=measured_times(), load=loaded(8))
    way = choice.trials.way
    for _ in range(500):
        choice.saw(SharedPass(8, 8, 8, int(plain_ns(8))), adaptive=3)
        assert choice.trials.way is way
    assert not any(choice.trials.measured(each) for each in (OFF, LOCKSTEP, PIPELINED, HEDGED))


# -------------------------------------------------------------------------------------------------- choices by the load


def test_what_was_learned_at_one_load_is_not_believed_at_another() -> None:
    choice = Choice(shares_processor=True, pass_times=measured_times())
    few, many = Device(2), Device(32)
    for _ in range(2):
        few.run(choice, DRAFTING_PAYS, 1500)
        assert choice.trials.best is LOCKSTEP
        many.run(choice, IT_DOES_NOT, 1500)
        assert choice.trials.best is OFF
    few.run(choice, DRAFTING_PAYS, 40)
    assert choice.trials.best is LOCKSTEP, "it comes back at once"
    assert {2, 32} <= set(choice.in_company)


def test_a_trial_that_a_change_of_load_cuts_short_is_over() -> None:
    choice = Choice(shares_processor=True, pass_times=measured_times())
    few, many = Device(2), Device(32)
    few.run(choice, DRAFTING_PAYS, 60)
    trials = choice.trials
    while trials.way is trials.best:
        few.run(choice, DRAFTING_PAYS, 1)
    many.run(choice, DRAFTING_PAYS, 60)
    assert choice.trials is not trials
    assert trials.way is trials.best, "it would go on where it was, at another time"


def test_a_way_that_was_replaced_counts_as_measured() -> None:
    trials, device = Trials(EXPECTED), Device()
    first = trials.best
    while trials.best is first:
        device.run(trials, {**IT_DOES_NOT, first: 0.5}, 1)
    assert trials.measured(first)


def test_what_was_learned_at_the_nearest_load_is_expected_first() -> None:
    choice = Choice(shares_processor=True, pass_times=measured_times())
    Device(8).run(choice, {**IT_DOES_NOT, HEDGED: 1.8}, 4000)
    Device(16).run(choice, DRAFTING_PAYS, 25)
    assert choice.load.level == 4
    assert choice.trials.best is HEDGED
    assert not choice.trials.measured(LOCKSTEP)


@pytest.mark.parametrize("shares_processor", [False, True])
def test_before_anything_is_measured_drafting_is_expected_to_pay_less_the_fuller_passes_are(
    shares_processor: bool,
) -> None:
    speedups = []
    for sessions in (2, 8, 32):
        choice = Choice(shares_processor=shares_processor, pass_times=measured_times(), load=loaded(sessions))
        speedups.append(choice.trials.speedup(LOCKSTEP))
    assert speedups == sorted(speedups, reverse=True)
    assert speedups[0] > 0


def test_a_session_alone_compares_its_own_stretches_and_nobody_else_s() -> None:
    choice = Choice(load=loaded(1))
    rule = Adaptive(Pace(PassTimes(), load=choice.load), 8, choice)
    for number in range(400):
        shared = SharedPass(1, 1, 2, int(PASS_NS))
        choice.load.saw(shared)
        choice.saw(shared, 1)
        rule.next(State(0))
        rule.learn(PassOutcome(2, int(number * PASS_NS), PASS_NS, judged=1, accepted=1))
    assert choice.in_company == {}
    assert choice.compared_with_others(choice.best)
    assert "on this text" in rule.reason


# ---------------------------------------------------------------------------------------------------- rows and windows


def crowded_pace(sessions: int, *, shares_processor: bool = False) -> Pace:
    return Pace(measured_times(), load=loaded(sessions), shares_processor=shares_processor)


def test_windows_shrink_as_passes_fill_and_come_back() -> None:
    windows = [BestWindow(crowded_pace(sessions), 15).next(State(0)).budget for sessions in (2, 8, 32, 64)]
    assert windows == sorted(windows, reverse=True)
    assert windows[0] >= 6
    assert windows[-1] <= 2
    pace = crowded_pace(32)
    rule = BestWindow(pace, 15)
    crowded = rule.next(State(0)).budget
    for _ in range(60):
        pace.load.saw(SharedPass(2, 2, 2, int(plain_ns(2))))
    assert rule.next(State(0)).budget > crowded


def test_a_row_costs_more_where_drafting_takes_time_from_verifying() -> None:
    for sessions in (2, 8, 32):
        apart, shared = (crowded_pace(sessions, shares_processor=shares).row_price for shares in (False, True))
        assert 0 < apart < shared


def test_a_text_that_is_not_worth_its_rows_rests_for_longer_and_longer_and_others_do_not() -> None:
    hard, easy = Worth(), Worth()
    rests: list[int] = []
    rested = 0
    for _ in range(2000):
        hard.saw(judged=4, accepted=1, price=0.4)
        easy.saw(judged=4, accepted=3, price=0.4)
        assert not easy.rests
        if hard.rests:
            rested += 1
        elif rested:
            rests.append(rested)
            rested = 0
    assert len(rests) >= 4
    assert rests == sorted(rests)
    assert rests[-1] > 4 * rests[0]
    assert sum(rests) > 0.7 * 2000


def test_a_text_that_becomes_easy_is_drafted_again() -> None:
    worth = Worth()
    for accepted in (0, 4):
        for _ in range(600):
            worth.saw(judged=4, accepted=accepted, price=0.4)
        assert worth.rests == (accepted == 0)


# -------------------------------------------------------------------------------------------------------------- reasons


def reason(choice: Choice, *, accepted: int = 4) -> str:
    """Of a session that has this many of four drafted tokens accepted for a while."""
    rule = Adaptive(Pace(measured_times(), load=choice.load), 8, choice)
    for number in range(40):
        rule.learn(PassOutcome(1 + accepted, number * 1000, 1.0, judged=4, accepted=accepted))
    assert rule.next(State(0)).speculation.value == rule.reason.split(":")[0]
    return rule.reason


def test_the_reason_says_what_several_sessions_together_made_of_it() -> None:
    choice = Choice(shares_processor=True, pass_times=measured_times(), load=loaded(4))
    assert "lockstep" in reason(choice)
    assert "expected" in reason(choice)
    Device(4).run(choice, DRAFTING_PAYS, 3000)
    said = reason(choice)
    assert said.startswith("lockstep: fastest while about 4 sessions share the passes; speed of all together")
    assert "off 1.00, " in said
    assert "a row costs 0." in said
    assert reason(choice, accepted=0).startswith("off: too little of this text is guessed while about 4 sessions")


def test_the_reason_says_that_sessions_fill_the_passes() -> None:
    choice = Choice(shares_processor=True, pass_times=measured_times(), load=loaded(32))
    Device(32).run(choice, IT_DOES_NOT, 2000)
    assert reason(choice).startswith("off: about 32 sessions fill the passes; ")


def test_speeds_in_reasons_are_over_plain_decoding() -> None:
    trials = Trials(EXPECTED)
    Device().run(trials, DRAFTING_PAYS, 5000)
    assert trials.speedup(OFF) == 0
    assert math.exp(trials.speedup(LOCKSTEP)) == pytest.approx(1.3, abs=0.06)
