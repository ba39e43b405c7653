"""Requests with deadlines: only those start or wait that can be done in time, and nobody waits in vain."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from coordinator.admission import Admission, Claim
from sybil_engine.core.errors import Exhausted
from tests.unit.coordinator.toy import asynchronous

STEP_S = 0.01
PROMPT_TOKENS = 150
PROMPT_TOKENS_PER_S = 2_500
DEADLINE_S = 3.0


@dataclass(eq=False)
class Session:
    """A request that runs: what it still takes, and who is told."""

    prompt: float
    tokens: float
    deliver: Callable[[int], None]
    done: asyncio.Event
    given: float = 0.0


class Server:
    """Serves requests in simulated time: prompts one after the other, and to every other session a token in each round.

    Args:
        base_s, session_s: a round takes `base_s`, and `session_s` for each session.
    """

    def __init__(self, base_s: float, session_s: float, room: int = 64) -> None:
        self.base_s, self.session_s = base_s, session_s
        self.now_s = 0.0
        self.admission = Admission(64, lambda: self.now_s)
        self.admission.resize(room)
        self.room = room
        self.sessions = list[Session]()
        self.given = 0.0

    async def ask(self, tokens: int, deadline_s: float) -> tuple[str, float]:
        """How a request ended, and after how many seconds."""
        came_s, done = self.now_s, asyncio.Event()
        claim = Claim(prompt_tokens=PROMPT_TOKENS, max_tokens=tokens, deadline_s=came_s + deadline_s)
        try:
            async with self.admission.place(claim) as deliver:
                self.sessions.append(Session(PROMPT_TOKENS, tokens, deliver, done))
                await done.wait()
        except Exhausted:
            return "refused", self.now_s - came_s
        return ("done" if self.now_s - came_s <= deadline_s else "late"), self.now_s - came_s

    async def run(self, *tasks: "asyncio.Task[tuple[str, float]]", seconds: float = math.inf) -> None:
        """Let time pass until the tasks are done, or for so long."""
        end_s = self.now_s + seconds
        while self.now_s < end_s and not all(task.done() for task in tasks):
            for _ in range(4):
                await asyncio.sleep(0)
            self.now_s += STEP_S
            self._serve()
            self.admission.resize(self.room)

    def _serve(self) -> None:
        feeding = next((each for each in self.sessions if each.prompt > 0), None)
        share = 0.5 if feeding else 1.0
        if feeding:
            feeding.prompt -= STEP_S * PROMPT_TOKENS_PER_S * share
        fed = [each for each in self.sessions if each.prompt <= 0]
        for session in fed:
            before, new = int(session.given), STEP_S * share / (self.base_s + self.session_s * len(fed))
            session.given, self.given = session.given + new, self.given + new
            session.deliver(int(min(session.given, session.tokens)) - before)
            if session.given >= session.tokens:
                self.sessions.remove(session)
                session.done.set()


async def best_rate(server: Server, tokens: int) -> float:
    """Tokens per second at the best of the loads at which requests end in time, while the load rises."""
    rates = list[float]()
    for concurrency in (1, 2, 4, 8, 12, 16, 24, 32):
        end_s = server.now_s + 6
        times_s = list[float]()

        async def client(end_s: float = end_s, times_s: list[float] = times_s) -> tuple[str, float]:
            while server.now_s < end_s:
                times_s.append((await server.ask(tokens, math.inf))[1])
            return "", 0

        clients = [asyncio.create_task(client()) for _ in range(concurrency)]
        await server.run(*clients, seconds=3)
        before = server.given
        await server.run(*clients, seconds=3)
        if max(times_s, default=math.inf) <= DEADLINE_S:
            rates.append((server.given - before) / 3)
        await server.run(*clients)
    return max(rates)


async def measured(server: Server) -> Server:
    """The server, after it has served a few requests."""
    for requests in (1, 4):
        await server.run(*(asyncio.create_task(server.ask(100, math.inf)) for _ in range(requests)))
    return server


async def ended(server: Server, task: "asyncio.Task[tuple[str, float]]") -> tuple[str, float]:
    await server.run(task)
    return task.result()


async def cancelled(*tasks: "asyncio.Task[tuple[str, float]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("tokens", [8, 32, 96])
@pytest.mark.parametrize("round_s", [(0.001, 0.003), (0.004, 0.0025)])
@asynchronous
async def test_of_a_crowd_as_many_end_in_time_as_can_and_the_others_are_told_at_once(
    round_s: tuple[float, float], tokens: int
) -> None:
    server = Server(*round_s)
    could = await best_rate(server, tokens) * DEADLINE_S / tokens
    tasks = [asyncio.create_task(server.ask(tokens, DEADLINE_S)) for _ in range(100)]
    await server.run(*tasks)
    ends = Counter(how for how, _ in (task.result() for task in tasks))
    assert ends["done"] >= 0.8 * could, (ends, could)
    assert ends["late"] == 0
    assert all(after_s <= 0.3 for how, after_s in (task.result() for task in tasks) if how == "refused")


@asynchronous
async def test_while_nothing_is_measured_everything_is_taken_to_be_in_time() -> None:
    server = Server(0.001, 0.003, room=8)
    tasks = [asyncio.create_task(server.ask(96, 0.1)) for _ in range(12)]
    await server.run(*tasks, seconds=0.05)
    assert (server.admission.running, server.admission.waiting) == (8, 4)
    await cancelled(*tasks)


@asynchronous
async def test_a_request_whose_deadline_is_too_near_is_told_so_and_when_to_try_again() -> None:
    server = await measured(Server(0.001, 0.003))
    with pytest.raises(Exhausted, match=r"would take about .* its deadline is in 0.2 s") as refusal:
        async with server.admission.place(Claim(max_tokens=96, deadline_s=server.now_s + 0.2)):
            pass
    assert refusal.value.retry_s
    assert 0.1 <= refusal.value.retry_s <= 3


@asynchronous
async def test_what_waits_is_refused_as_soon_as_it_cannot_be_in_time() -> None:
    server = await measured(Server(0.001, 0.003, room=1))
    running = asyncio.create_task(server.ask(100, math.inf))
    waiting = asyncio.create_task(server.ask(50, 2))
    await server.run(waiting, seconds=0.1)
    assert server.admission.waiting == 1
    server.session_s *= 20
    how, after_s = await ended(server, waiting)
    assert how == "refused"
    assert after_s < 1.5
    await cancelled(running)


@asynchronous
async def test_a_request_that_would_make_a_running_one_late_waits_and_none_overtakes_it() -> None:
    server = await measured(Server(0.001, 0.003))
    tight = asyncio.create_task(server.ask(100, 0.85))
    await server.run(tight, seconds=0.05)
    patient = [asyncio.create_task(server.ask(60, math.inf)) for _ in range(3)]
    await server.run(*patient, seconds=0.05)
    assert (server.admission.running, server.admission.waiting) == (1, 3)
    assert (await ended(server, tight))[0] == "done"
    await server.run(*patient)
    assert all(each.result()[0] == "done" for each in patient)


@asynchronous
async def test_what_was_measured_long_ago_is_forgotten() -> None:
    server = await measured(Server(0.001, 0.003))
    server.now_s += 11
    task = asyncio.create_task(server.ask(96, 0.1))
    await server.run(task, seconds=0.02)
    assert server.admission.running == 1
    await cancelled(task)
