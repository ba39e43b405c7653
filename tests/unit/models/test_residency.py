"""A pool too small for all sessions makes them wait, in order; it changes no token and loses none."""

import random

import pytest

from drafter_service.engine import Drafter
from sybil_engine.core.errors import ContextExceeded
from sybil_engine.core.prefill import Prefill
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_engine.models.residency import Residency, Resident
from tests.unit.fake_runner import (
    CHUNK_TOKENS,
    CONTEXT_TOKENS,
    FakeClock,
    FakeRunner,
    description,
    near_model,
    plain_tokens,
)
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


def test_a_draft_session_that_can_never_fit_with_its_hedges_is_refused_at_once() -> None:
    runner = FakeRunner(pages=(TOKENS + MORE) // CHUNK_TOKENS + 1)
    assert runner.tree_cells > CONTEXT_TOKENS, "hedges need cells beside those of its positions"
    with pytest.raises(ContextExceeded, match="raise --cache-memory"):
        Drafter(runner, description()).open(opening(0, Speculation.HEDGED), lambda event: None)
    assert runner.slots_in_use == 0


# ------------------------------------------------------------------------------------------------- one house, by itself


class Guest(Resident):
    """A session that only holds cells."""

    fed_tokens = 0

    def __init__(self, opening: SessionOpen, slot: int, number: int) -> None:
        super().__init__(opening, slot, number, lambda: not self.pauses)
        self.pauses = False

    def feed(self, tokens: int) -> None:
        self.fed_tokens += tokens

    def leave(self) -> None:
        self.fed_tokens = 0


class House:
    """A pool and its guests."""

    def __init__(self, pages: int) -> None:
        self.runner = FakeRunner(slots=9, pages=pages)
        self.residency: Residency[Guest] = Residency(self.runner, Prefill(CHUNK_TOKENS, CHUNK_TOKENS))
        self.guests: list[Guest] = []

    def open(self, prompt: tuple[int, ...], priority: int = 0) -> Guest:
        asked = SessionOpen(prompt, len(prompt), priority=priority)
        self.guests.append(Guest(asked, self.runner.pool.allocate(), len(self.guests)))
        return self.guests[-1]

    def start(self) -> list[Guest]:
        return self.residency.start([guest for guest in self.guests if not guest.resident], self.guests)

    def feed_all(self) -> None:
        while self.residency.feed([guest for guest in self.guests if guest.resident], due=False):
            pass


def pages_of(count: int, seed: int = 0) -> tuple[int, ...]:
    """A prompt that takes this many pages, the last one with its last token alone."""
    return some_prompt(seed, CHUNK_TOKENS * (count - 1) + 1)


def test_for_cells_that_only_older_sessions_could_give_a_session_goes_itself() -> None:
    house = House(pages=4)
    older, younger = house.open(pages_of(1)), house.open(pages_of(1, seed=1))
    assert house.start() == [older, younger]
    house.residency.hold(older, range(2 * CHUNK_TOKENS), house.guests)
    house.residency.hold(younger, range(3 * CHUNK_TOKENS), house.guests)
    assert (older.resident, younger.resident) == (True, False)
    assert (house.runner.pool.room, house.residency.evicted) == (2, 1)


def test_the_last_in_order_gives_its_cells_first() -> None:
    house = House(pages=8)
    low, urgent, young = (house.open(pages_of(1, seed), priority) for seed, priority in ((0, 0), (1, 1), (2, 0)))
    assert house.start() == [urgent, low, young]
    house.residency.hold(low, range(7 * CHUNK_TOKENS), house.guests)
    assert [guest.resident for guest in (low, urgent, young)] == [True, True, False]
    house.residency.hold(urgent, range(8 * CHUNK_TOKENS), house.guests)
    assert [guest.resident for guest in (low, urgent, young)] == [False, True, False]


def test_a_session_that_pauses_gives_its_cells_first_and_takes_none() -> None:
    house = House(pages=6)
    slow, young = house.open(pages_of(1), priority=1), house.open(pages_of(1, seed=1))
    assert house.start() == [slow, young]
    slow.pauses = True
    house.residency.hold(young, range(6 * CHUNK_TOKENS), house.guests)
    assert (slow.resident, young.resident) == (False, True)
    house.residency.evict(young)
    assert house.start() == [young], "there is room for both"
    slow.pauses = False
    assert house.start() == [slow]


def test_sessions_that_all_pause_make_room_for_one_that_waits() -> None:
    house = House(pages=6)
    slow = [house.open(pages_of(1, seed)) for seed in range(2)]
    assert house.start() == slow
    for guest in slow:
        guest.pauses = True
    waiting = house.open(pages_of(3, seed=2))
    assert house.start() == [waiting]
    assert [guest.resident for guest in slow] == [True, False], "the last in order went"


def test_a_session_that_starts_is_left_a_page_to_go_on_with() -> None:
    house = House(pages=6)
    first, second = house.open(pages_of(2)), house.open(pages_of(2, seed=1))
    assert house.start() == [first, second]
    for guest in (first, second):
        house.residency.hold(guest, range(3 * CHUNK_TOKENS), house.guests)
    assert first.resident
    assert second.resident
    tight = House(pages=5)
    first, second = tight.open(pages_of(2)), tight.open(pages_of(2, seed=1))
    assert tight.start() == [first], "it would be evicted at its first pass"


def test_a_session_that_finds_no_room_takes_nothing_and_leaves_kept_pages_in_their_order() -> None:
    house = House(pages=6)
    gone = house.open(pages_of(4))
    house.start()
    house.feed_all()
    house.runner.pool.release(gone.slot)
    house.guests.clear()
    first = house.open(pages_of(3, seed=1))
    assert house.start() == [first]
    waiting = house.open(pages_of(4))
    pool = house.runner.pool
    before = (pool.room, list(pool._kept), pool.counts)
    for _ in range(3):
        assert house.start() == []
        assert (pool.room, list(pool._kept), pool.counts) == before
    assert not waiting.resident


def test_pages_that_others_use_need_no_room() -> None:
    house = House(pages=7)
    first = house.open(pages_of(4))
    house.start()
    house.feed_all()
    second = house.open((*first.prompt, 1))
    assert house.runner.pool.room == 3
    assert house.start() == [second], "three pages are shared; one of its own, and one more for each, is all it needs"
    assert (second.reused_tokens, second.prefill_tokens) == (3 * CHUNK_TOKENS, 0)


def test_what_another_session_has_fed_meanwhile_is_not_fed_again() -> None:
    house = House(pages=20)
    first, second = house.open(pages_of(4)), house.open(pages_of(4))
    house.start()
    assert second.reused_tokens == 0
    house.feed_all()
    assert {chunk.slot for chunk in house.runner.chunks} == {first.slot}
    assert second.prefill_tokens == 0
