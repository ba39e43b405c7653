"""Many sessions over one verifier and one drafter: `auto` is about as fast as the best fixed way, at every load."""

import pytest

from simulator.crowd import Crowd, Stay
from simulator.experience import Experience
from simulator.players.sybil import Sybil
from simulator.point import Point
from sybil_engine.core.types import Speculation
from tests.unit.simulator.synthetic import synthetic_trace
from verifier_service.policy.load import Load, SharedPass

# The embedded pair on two cores: both models share them, and a row costs a fifth of a pass.
SHARED = Point(2, 0.35, 0.4, row_ms=0.37, draft_row_ms=0.05, prompt_token_ms=0.05, slowdown=0.5)
# Each model has a device of its own, on which rows cost little.
APART = Point(30, 3, 1, row_ms=0.1, draft_row_ms=0.02, prompt_token_ms=0.1)

OFF, LOCKSTEP, HEDGED, AUTO = Speculation.OFF, Speculation.LOCKSTEP, Speculation.HEDGED, Speculation.AUTO


def crowd(speculation: Speculation, point: Point, users: int, passes: int, acceptance_rate: float = 0.85) -> Crowd:
    """A crowd that stays for as many plain passes; what the first third of them commits is not counted."""
    duration_s = passes * point.pass_ms(users - 1) / 1e3
    traces = [synthetic_trace(96, [acceptance_rate, (1 - acceptance_rate) / 2], seed) for seed in range(24)]
    arm = Sybil(
        speculation, 4 if speculation is LOCKSTEP else 0, experience=Experience(shares_processor=point is SHARED)
    )
    return Crowd(arm, traces, point, Stay(users, duration_s, duration_s / 3, prompt_tokens=32))


@pytest.mark.parametrize(
    ("point", "users", "passes", "best"),
    [
        (SHARED, 1, 3000, LOCKSTEP),
        (SHARED, 2, 4000, LOCKSTEP),
        (SHARED, 4, 3000, OFF),
        (SHARED, 8, 1500, OFF),
        (SHARED, 32, 700, OFF),
        (APART, 4, 700, HEDGED),
        (APART, 16, 250, HEDGED),
    ],
)
def test_auto_is_nearly_as_fast_as_the_best_fixed_way(point: Point, users: int, passes: int, best: Speculation) -> None:
    fixed = {way: crowd(way, point, users, passes).tokens_per_second for way in (OFF, best)}
    adaptive = crowd(AUTO, point, users, passes)
    assert max(fixed, key=fixed.__getitem__) is best
    assert adaptive.tokens_per_second >= 0.95 * fixed[best]


def test_drafting_that_pays_for_few_is_left_where_many_share_the_passes() -> None:
    few, many = (crowd(AUTO, SHARED, users, passes) for users, passes in ((1, 1500), (16, 400)))
    shares = [each.passes[OFF] / sum(each.passes.values()) for each in (few, many)]
    assert shares[0] < 0.1
    assert shares[1] > 0.8


def test_for_a_user_alone_the_load_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = crowd(AUTO, SHARED, 1, 1500)

    def learn_nothing(load: Load, shared: SharedPass) -> None:
        pass

    monkeypatch.setattr(Load, "saw", learn_nothing)
    as_before = crowd(AUTO, SHARED, 1, 1500)
    assert (alone.tokens, alone.passes, alone.reasons) == (as_before.tokens, as_before.passes, as_before.reasons)


def test_a_crowd_s_texts_are_all_said_to_their_ends() -> None:
    traces = [synthetic_trace(50, [0.8], seed) for seed in range(3)]
    for speculation in Speculation:
        played = Crowd(Sybil(speculation), traces, APART, Stay(4, 1.0))
        # Those that run at the end go on to theirs.
        assert len(played.reasons) >= 4
        assert played.tokens_per_second > 0
