"""A pool too small for all sessions makes them wait, in order; it changes no token and loses none."""

import random

import pytest

from drafter_service.engine import Drafter
from sybil_engine.core.errors import ContextExceeded
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import SamplingParams, Speculation
from tests.unit.fake_runner import CHUNK_TOKENS, FakeClock, FakeRunner, description, near_model, plain_tokens
from tests.unit.messages import some_prompt
from tests.unit.verifier.test_verifier import Client, plan_of
from verifier_service.engine import Verifier

pytestmark = pytest.mark.usefixtures("one_thread", "clock")

TOKENS, MORE = 2 * CHUNK_TOKENS + 3, 20
# The most that one session of these tests takes on a verifier: its positions, one pass more, and all branches.
PAGES_A_SESSION = 20


def opening(seed: int, speculation: Speculation, priority: int = 0) -> SessionOpen:
    sampling = SamplingParams() if seed % 2 else SamplingParams(temperature=1.0)
    prompt = some_prompt(seed, TOKENS)
    plan = plan_of(speculation)
    return SessionOpen(prompt, TOKENS, sampling, seed, max_position=TOKENS + MORE, plan=plan, priority=priority)


def crowd(speculation: Speculation, pages: int, clock: FakeClock, sessions: int = 6) -> list[Client]:
    """Sessions that all run at once on a small pool, to their ends."""
    target = FakeRunner(slots=sessions, pages=pages)
    draft = FakeRunner(near_model, slots=sessions, pages=pages)
    verifier, drafter = Verifier(target, description(), 4), Drafter(draft, description())
    drafting = None if speculation is Speculation.OFF else drafter
    clients = [Client(verifier, opening(seed, speculation), clock, drafting) for seed in range(sessions)]
    for _ in range(5_000):
        for client in clients:
            client.deliver()
        drafter.step()
        clock.pass_s(verifier.step() or 0)
        for client in clients:
            if client.finished and client.session.slot >= 0:
                client.leave()
        if all(client.finished for client in clients):
            break
    assert target.slots_in_use == 0
    assert target.pool.room == pages, "pages were not given back"
    assert draft.pool.room == pages, "the drafter's pages were not given back"
    assert verifier.occupancy.evictions > 0 or pages >= sessions * PAGES_A_SESSION
    return clients


@pytest.mark.parametrize(
    "speculation", [Speculation.OFF, Speculation.LOCKSTEP, Speculation.PIPELINED, Speculation.HEDGED]
)
@pytest.mark.parametrize("pages", [PAGES_A_SESSION, PAGES_A_SESSION + 7])
def test_a_full_pool_changes_no_token(speculation: Speculation, pages: int, clock: FakeClock) -> None:
    for client in crowd(speculation, pages, clock):
        assert not client.errors
        assert client.tokens == plain_tokens(client.opening)


def test_the_oldest_session_is_never_evicted_and_ends_first(clock: FakeClock) -> None:
    verifier = Verifier(FakeRunner(slots=4, pages=PAGES_A_SESSION), description(), 4)
    ended: list[int] = []
    clients = [Client(verifier, opening(seed, Speculation.OFF), clock) for seed in range(4)]
    while len(ended) < 4:
        clock.pass_s(verifier.step() or 0)
        assert clients[0].finished or clients[0].session.resident
        ended += [seed for seed in range(4) if clients[seed].finished and seed not in ended]
    assert ended[0] == 0
    assert sorted(ended) == [0, 1, 2, 3]


def test_a_higher_priority_starts_first_and_is_evicted_last(clock: FakeClock) -> None:
    verifier = Verifier(FakeRunner(slots=8, pages=PAGES_A_SESSION), description(), 4)
    clients = [Client(verifier, opening(seed, Speculation.OFF, priority=seed), clock) for seed in range(8)]
    while not clients[7].finished:
        assert clients[7].session.resident or not clients[7].commits
        clock.pass_s(verifier.step() or 0)
    assert not any(client.commits for client in clients[:3])


def test_a_session_that_can_never_fit_is_refused_at_once(clock: FakeClock) -> None:
    verifier = Verifier(FakeRunner(pages=3), description(), 4)
    with pytest.raises(ContextExceeded, match="raise --cache-memory"):
        Client(verifier, opening(0, Speculation.OFF), clock)


def test_sessions_that_leave_while_they_wait_leave_nothing(clock: FakeClock) -> None:
    runner = FakeRunner(slots=6, pages=PAGES_A_SESSION)
    verifier = Verifier(runner, description(), 4)
    rng = random.Random(1)
    for seed in range(40):
        clients = [Client(verifier, opening(seed + more, Speculation.OFF), clock) for more in range(6)]
        for _ in range(rng.randrange(30)):
            clock.pass_s(verifier.step() or 0)
        for client in rng.sample(clients, 6):
            client.leave()
        assert (runner.slots_in_use, runner.pool.room) == (0, PAGES_A_SESSION)


def test_a_prompt_that_another_session_has_fed_is_not_fed_again(clock: FakeClock) -> None:
    runner = FakeRunner()
    verifier = Verifier(runner, description(), 4)
    answers = []
    for _ in range(2):
        client = Client(verifier, opening(1, Speculation.OFF), clock)
        while not client.finished:
            clock.pass_s(verifier.step() or 0)
        answers.append(client)
    assert answers[0].tokens == answers[1].tokens == plain_tokens(opening(1, Speculation.OFF))
    assert [client.commits[0].cached_prompt_tokens for client in answers] == [0, 2 * CHUNK_TOKENS]
    assert sum(len(chunk.token_ids) for chunk in runner.chunks if chunk.position < CHUNK_TOKENS * 2) == 2 * CHUNK_TOKENS
