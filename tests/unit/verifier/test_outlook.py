"""The wait that a launch rule chooses is the best one in the long run, not in the next pass."""

import random
from collections.abc import Callable

import pytest

from verifier_service.policy.outlook import Outlook

PASS_NS = 3e7
MOST = 8
WAITS = range(MOST + 1)


def outlook(acceptance_rate: float, draft_ns: float, round_trip_ns: float, pass_ns: float = PASS_NS) -> Outlook:
    return Outlook(acceptance_rate, lambda rows: pass_ns, draft_ns, round_trip_ns, MOST)


def play(
    acceptance_rate: float, draft_ns: float, round_trip_ns: float, window: Callable[[int], int], passes: int = 20_000
) -> float:
    """Tokens per nanosecond of a pipeline, event by event, with a drafter that is right at random.

    Args:
        window: what to launch with, by the tokens that are ready.
    """
    chance = random.Random(4)
    ready = tokens = 0
    now_ns = 0.0
    for _ in range(passes):
        wanted = max(min(ready, MOST), window(ready))
        # After a miss the drafter hears of it half a round trip later, and what it drafts takes the other half.
        drafting_since_ns = now_ns + (round_trip_ns if not ready else 0.0)
        if wanted > ready:
            now_ns = drafting_since_ns + (wanted - ready) * draft_ns
        accepted = next((depth for depth in range(wanted) if chance.random() > acceptance_rate), wanted)
        tokens += accepted + 1
        launched_ns, now_ns = now_ns, now_ns + PASS_NS
        ahead = int((now_ns - max(launched_ns, drafting_since_ns)) / draft_ns) + max(0, ready - wanted)
        hit = accepted == wanted and ahead > 0 and chance.random() < acceptance_rate
        ready = min(MOST, ahead - 1) if hit else 0
    return tokens / now_ns


@pytest.mark.parametrize("acceptance_rate", [0.5, 0.7, 0.85, 0.95])
@pytest.mark.parametrize(
    ("draft_ns", "round_trip_ns"), [(3e6, 1e6), (4.4e6, 3e6), (3e6, 15e6), (1.5e6, 15e6), (12e6, 1e6)]
)
def test_no_fixed_wait_beats_the_chosen_one(acceptance_rate: float, draft_ns: float, round_trip_ns: float) -> None:
    chosen = outlook(acceptance_rate, draft_ns, round_trip_ns)
    rates = {wait: play(acceptance_rate, draft_ns, round_trip_ns, lambda ready, wait=wait: wait) for wait in WAITS}  # type: ignore[misc]
    assert play(acceptance_rate, draft_ns, round_trip_ns, chosen.best_window) > 0.97 * max(rates.values())


def test_the_window_of_draft_then_verify_is_too_long_for_a_pipeline() -> None:
    def next_pass_alone(ready: int) -> int:
        def rate(window: int) -> float:
            return sum(0.85**depth for depth in range(window + 1)) / (PASS_NS + 1e6 + window * 3e6)

        return ready or max(WAITS, key=rate)

    chosen = outlook(0.85, 3e6, 1e6)
    assert play(0.85, 3e6, 1e6, chosen.best_window) > 1.03 * play(0.85, 3e6, 1e6, next_pass_alone)


def test_a_round_trip_as_long_as_half_a_pass_is_hidden_by_a_pass() -> None:
    assert [outlook(rate, 3e6, 15e6).best_window(0) for rate in (0.5, 0.7, 0.9)] == [0, 0, 0]


def test_a_drafter_slower_than_the_target_is_never_waited_for() -> None:
    assert {outlook(rate, 3.1e7, 1e6).best_window(0) for rate in (0.1, 0.5, 0.97)} == {0}


@pytest.mark.parametrize("ready", range(12))
def test_what_is_ready_is_judged(ready: int) -> None:
    assert min(ready, MOST) <= outlook(0.8, 3e6, 1e6).best_window(ready) <= max(ready, MOST)
