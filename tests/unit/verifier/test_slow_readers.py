"""A session whose reader is behind runs no passes; the others do, and later it goes on with the same tokens."""

import pytest

from tests.unit.fake_runner import FakeClock, FakeRunner, plain_tokens, target_model
from tests.unit.verifier.test_verifier import Client, opening, verifier_on

pytestmark = pytest.mark.usefixtures("one_thread", "clock")


def test_a_session_without_room_for_commits_pauses_and_goes_on_with_the_same_tokens(clock: FakeClock) -> None:
    runner = FakeRunner(target_model, slots=2, max_rows=6)
    verifier, room = verifier_on(runner), [True]
    slow, other = Client(verifier, opening(1), clock), Client(verifier, opening(2), clock)
    slow.session.has_room = lambda: room[0]
    while len(slow.commits) < 3:
        clock.pass_s(verifier.step() or 0)
    # A pass may have run already.
    verifier.step()
    room[0], before = False, len(slow.commits)
    while not other.finished:
        delay_s = verifier.step()
        assert delay_s is not None
        clock.pass_s(delay_s)
    assert len(slow.commits) <= before + 1
    assert verifier.step() is None, "an engine whose only session pauses must not be busy"
    room[0] = True
    while not slow.finished:
        clock.pass_s(verifier.step() or 0)
    for client in (slow, other):
        assert client.tokens == plain_tokens(client.opening)


def test_a_reader_that_catches_up_in_the_middle_of_a_step_makes_the_engine_wait_no_negative_time(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = FakeRunner(target_model, slots=2, max_rows=6)
    verifier = verifier_on(runner)
    slow = Client(verifier, opening(1), clock)
    while not slow.commits:
        clock.pass_s(verifier.step() or 0)
    answers: list[bool] = []

    def has_room() -> bool:
        """It has none when the pass is chosen, and room afterwards."""
        answers.append(len(answers) > 0)
        return answers[-1]

    slow.session.has_room = has_room
    monkeypatch.setattr(slow.session, "due_in_ns", lambda now_ns: -1)
    assert verifier.step() == 0
    assert answers == [False, True]
