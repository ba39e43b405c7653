"""Committed tokens are the target's own, whatever is drafted or lost, and whichever sessions share the passes."""

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from drafter_service.engine import Drafter
from sybil_engine.core.draft_tree import Graft
from sybil_engine.core.errors import ContextExceeded, Exhausted, InvalidRequest, Unavailable
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import (
    AcceptanceRule,
    Block,
    BlockOrigin,
    Distribution,
    FinishReason,
    SamplingParams,
    Speculation,
    TokenOrigin,
)
from sybil_engine.rpc.v1.verifier_service_pb2 import VerifyRequest
from sybil_engine.serving.convert import block_to_wire
from tests.unit.fake_runner import (
    CHUNK_TOKENS,
    CONTEXT_TOKENS,
    VOCABULARY_SIZE,
    FakeClock,
    FakeRunner,
    Model,
    bad_model,
    description,
    near_model,
    plain_tokens,
    target_model,
)
from tests.unit.messages import block_after, some_prompt
from verifier_service import servicer
from verifier_service.engine import Verifier
from verifier_service.policy.choice import Choice
from verifier_service.policy.rule import State
from verifier_service.session import VerifierSession

pytestmark = pytest.mark.usefixtures("one_thread", "clock")

SAMPLED = SamplingParams(temperature=1.0, top_k=20, top_p=0.95)
DRAFTERS: dict[str, Model] = {"perfect": target_model, "near": near_model, "bad": bad_model}


def opening(seed: int, speculation: Speculation = Speculation.OFF, tokens: int = 5, more: int = 20) -> SessionOpen:
    return SessionOpen(
        some_prompt(seed, tokens),
        tokens,
        sampling=SamplingParams() if seed % 3 == 0 else SAMPLED,
        seed=seed,
        max_position=tokens + more,
        plan=plan_of(speculation),
    )


def plan_of(speculation: Speculation) -> DraftPlan:
    """A short one, so that windows end inside of it."""
    if speculation is Speculation.OFF:
        return NO_DRAFTING
    return DraftPlan(speculation, budget=4, rows=4 if speculation in (Speculation.HEDGED, Speculation.AUTO) else 1)


@dataclass(eq=False)
class Client:
    """One session on a verifier, and perhaps on a drafter: a pump that may lose, repeat, reorder and invent blocks."""

    verifier: Verifier
    opening: SessionOpen
    clock: FakeClock
    drafter: Drafter | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    faults: float = 0.0

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.opening.token_ids, self.opening.prompt_tokens)
        self.commits: list[Commit] = []
        self.errors: list[Exception] = []
        self.blocks: list[Block] = []
        self.seen: list[Block] = []
        self.session = self.verifier.open(self.opening, self.take)
        self.draft_session = self.drafter.open(self.opening, self.take_blocks) if self.drafter else None

    def take(self, event: Commit | Exception) -> None:
        if isinstance(event, Exception):
            self.errors.append(event)
            return
        assert event.position == len(self.ledger), "commits are contiguous"
        self.commits.append(event)
        self.ledger.append(event)
        if self.draft_session:
            self.draft_session.advance(event.advance)

    def take_blocks(self, event: tuple[Block, ...] | Exception) -> None:
        assert isinstance(event, tuple)
        self.blocks.extend(event)

    @property
    def finished(self) -> bool:
        return bool(self.errors or (self.commits and self.commits[-1].finish_reason))

    def deliver(self) -> None:
        while self.blocks:
            block = self.blocks.pop(0)
            self.seen.append(block)
            if self.rng.random() < self.faults:
                self.misdeliver(block)
            else:
                self.session.offer(block, self.clock.monotonic_ns())

    def misdeliver(self, block: Block) -> None:
        now_ns = self.clock.monotonic_ns()
        token_ids = tuple(self.rng.randrange(VOCABULARY_SIZE) for _ in range(1 + self.rng.randrange(3)))
        match self.rng.randrange(6):
            case 0:
                pass  # lost
            case 1:
                self.session.offer(block, now_ns)
                self.session.offer(block, now_ns)
            case 2:
                self.session.offer(self.rng.choice(self.seen), now_ns)
            case 3:
                self.session.offer(replace(block, prefix_fingerprint=self.rng.randrange(2**64)), now_ns)
            case 4:
                self.session.offer(replace(block, token_ids=token_ids, chances=()), now_ns)
            case 5:
                hedge = replace(block, token_ids=token_ids, chances=(), origin=BlockOrigin.HEDGE)
                self.session.offer(hedge, now_ns)

    def leave(self) -> None:
        self.verifier.close(self.session)
        if self.drafter and self.draft_session:
            self.drafter.close(self.draft_session)

    @property
    def tokens(self) -> list[int]:
        return self.ledger[:]


def run(client: Client, draft_steps: int = 2) -> Client:
    """Run a single session to its end."""
    for _ in range(2_000):
        if client.finished:
            client.leave()
            return client
        for _ in range(draft_steps if client.drafter else 0):
            client.drafter.step() if client.drafter else None
        client.deliver()
        delay_s = client.verifier.step()
        assert delay_s is not None or client.finished, "an open session always has a next step"
        client.clock.pass_s(delay_s or 0)
    pytest.fail("the session never ends")


def origins_of(commit: Commit) -> list[TokenOrigin]:
    return [token.origin for token in commit.tokens]


def logprobs_of(client: Client) -> list[float | None]:
    return [token.logprob for commit in client.commits for token in commit.tokens]


def verifier_on(runner: FakeRunner, max_window_tokens: int = 4) -> Verifier:
    return Verifier(runner, description(), max_window_tokens)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tokens", [1, 2, CHUNK_TOKENS, CHUNK_TOKENS + 1, CHUNK_TOKENS + 2, 3 * CHUNK_TOKENS + 3])
def test_without_speculation_a_session_commits_the_plain_tokens(seed: int, tokens: int, clock: FakeClock) -> None:
    runner = FakeRunner()
    client = run(Client(verifier_on(runner), opening(seed, tokens=tokens, more=8), clock))
    assert client.tokens == plain_tokens(client.opening)
    assert all(commit.judged == commit.accepted == commit.plan.budget == 0 for commit in client.commits)
    assert all(origins_of(commit) == [TokenOrigin.TARGET] for commit in client.commits)
    assert runner.slots_in_use == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("speculation", [each for each in Speculation if each is not Speculation.OFF])
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("faults", [0.0, 0.5])
def test_whatever_is_drafted_the_committed_tokens_are_the_plain_ones(
    seed: int, speculation: Speculation, drafter: str, faults: float, clock: FakeClock
) -> None:
    rng = random.Random(f"{seed} {drafter} {faults}")
    draft_runner = FakeRunner(DRAFTERS[drafter])
    client = Client(
        verifier_on(FakeRunner(), max_window_tokens=rng.choice([1, 3, 5])),
        opening(seed, speculation, tokens=rng.choice([1, 5, 19])),
        clock,
        Drafter(draft_runner, description()),
        rng,
        faults,
    )
    run(client, draft_steps=rng.choice([1, 2, 5]))
    assert client.tokens == plain_tokens(client.opening)
    assert client.session.fed_tokens == len(client.tokens) - 1
    for commit in client.commits:
        assert commit.accepted <= commit.judged
        assert origins_of(commit) == (
            [TokenOrigin.DRAFTED] * commit.accepted + [TokenOrigin.TARGET] * (len(commit.tokens) - commit.accepted)
        )
        assert len(commit.token_ids) in (commit.accepted, commit.accepted + 1)
    if drafter == "perfect" and not faults:
        assert all(commit.accepted == commit.judged for commit in client.commits)
        assert len(client.commits) < 20
    if drafter == "bad" and client.opening.sampling.greedy and not faults and speculation is not Speculation.HEDGED:
        assert sum(commit.accepted for commit in client.commits) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("speculation", [Speculation.LOCKSTEP, Speculation.PIPELINED])
def test_a_dead_drafter_costs_time_and_no_tokens(seed: int, speculation: Speculation, clock: FakeClock) -> None:
    client = run(Client(verifier_on(FakeRunner()), opening(seed, speculation), clock))
    assert client.tokens == plain_tokens(client.opening)
    # Waited for once, and then never again.
    assert clock.now_ns < 0.25e9


@pytest.mark.parametrize("draft_ns", [3600 * 10**9, 2**64 - 1])
@pytest.mark.parametrize("speculation", [each for each in Speculation if each is not Speculation.OFF])
def test_a_drafter_that_lies_about_its_times_and_falls_silent_costs_seconds_at_most(
    draft_ns: int, speculation: Speculation, clock: FakeClock
) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, speculation), clock)
    # Open for an hour, so that what it says may be true.
    clock.pass_s(3600)
    client.session.offer(replace(block_of(client, (1,)), draft_ns=draft_ns), clock.monotonic_ns())
    run(client)
    assert client.tokens == plain_tokens(client.opening)
    assert clock.now_ns < 3600e9 + 20e9


@pytest.mark.parametrize("speculation", Speculation)
@pytest.mark.parametrize("place", [0, 1, 3, 7])
def test_a_session_ends_at_its_first_stop_token(speculation: Speculation, place: int, clock: FakeClock) -> None:
    plain = plain_tokens(opening(1))
    stop = plain[5 + place]
    base = replace(opening(1, speculation), stop_token_ids=frozenset({stop}))
    drafter = Drafter(FakeRunner(target_model), description())
    client = run(Client(verifier_on(FakeRunner()), base, clock, drafter))
    assert client.tokens == plain[: plain.index(stop, 5) + 1]
    assert client.commits[-1].finish_reason is FinishReason.STOP
    assert client.commits[-1].plan.budget == 0
    assert all(commit.accepted == commit.judged for commit in client.commits), "after it: not tested"
    assert [commit.finish_reason for commit in client.commits[:-1]] == [None] * (len(client.commits) - 1)


@pytest.mark.parametrize("speculation", Speculation)
@pytest.mark.parametrize("more", [1, 2, 3, 5, 59, 100])
def test_a_session_ends_at_its_last_position_or_at_the_context(
    speculation: Speculation, more: int, clock: FakeClock
) -> None:
    drafter = Drafter(FakeRunner(target_model), description())
    client = run(Client(verifier_on(FakeRunner()), opening(2, speculation, more=more), clock, drafter), draft_steps=6)
    assert len(client.tokens) == min(5 + more, CONTEXT_TOKENS)
    assert client.tokens == plain_tokens(client.opening)
    assert client.commits[-1].finish_reason is FinishReason.LENGTH
    assert clock.now_ns < 0.05e9, "drafted tokens that have no room are not waited for"


@pytest.mark.parametrize("speculation", Speculation)
@pytest.mark.parametrize("drafter", ["near", "bad"])
def test_a_plan_is_made_once_a_commit_and_sent_with_it(
    speculation: Speculation, drafter: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DraftPlan] = []
    client = Client(
        verifier_on(FakeRunner()),
        opening(1, speculation),
        clock,
        Drafter(FakeRunner(DRAFTERS[drafter]), description()),
    )
    plan = client.session.rule.next

    def counted(state: State) -> DraftPlan:
        made.append(plan(state))
        return made[-1]

    monkeypatch.setattr(client.session.rule, "next", counted)
    run(client)
    *others, last = client.commits
    # The first one is made when the prompt is fed; after the last commit there is nothing to plan.
    assert made[1:] == [commit.plan for commit in others]
    assert last.plan.budget == 0


def test_a_session_that_begins_without_drafts_waits_for_nothing_though_its_drafter_was_told_to_draft(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Choice, "begins_drafting", lambda self, greedy: False)
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.AUTO, tokens=1), clock)
    assert client.session.plan.speculation is Speculation.OFF
    assert client.session.due_in_ns(clock.monotonic_ns()) <= 0
    next_commit(client)
    client.session.rule.next = lambda state: plan_of(Speculation.LOCKSTEP)  # type: ignore[method-assign]
    next_commit(client)
    assert client.commits[-1].plan.budget > 0
    assert client.session.due_in_ns(clock.monotonic_ns()) > 0, "who was not asked for drafts is not taken for silent"
    client.leave()


def test_a_rejected_window_counts_judged_and_accepted_tokens(clock: FakeClock) -> None:
    client = Client(verifier_on(FakeRunner()), opening(3, Speculation.PIPELINED), clock)
    plain = plain_tokens(client.opening)
    client.session.offer(block_of(client, (plain[5], plain[6], (plain[7] + 1) % VOCABULARY_SIZE, 0)), 0)
    next_commit(client)
    (commit,) = client.commits
    assert (commit.judged, commit.accepted) == (4, 2)
    assert commit.token_ids == tuple(plain[5:8])
    assert origins_of(commit) == [TokenOrigin.DRAFTED, TokenOrigin.DRAFTED, TokenOrigin.TARGET]
    assert logprobs_of(client) == [None] * 3, "nobody asked for them"
    client.leave()


def block_of(client: Client, token_ids: tuple[int, ...]) -> Block:
    return block_after(client.tokens, token_ids)


def test_log_probabilities_come_with_each_token_when_asked_for(clock: FakeClock) -> None:
    drafter = Drafter(FakeRunner(near_model), description())
    asked = replace(opening(1, Speculation.PIPELINED), logprobs=True)
    client = run(Client(verifier_on(FakeRunner()), asked, clock, drafter))
    plain = run(Client(verifier_on(FakeRunner()), replace(opening(1), logprobs=True), clock))
    logprobs = logprobs_of(client)
    assert len(logprobs) == 20
    assert all(value is not None and value <= 0 for value in logprobs)
    assert logprobs == logprobs_of(plain)


@pytest.mark.parametrize("seed", range(4))
def test_who_shares_the_passes_changes_nobodys_tokens(seed: int, clock: FakeClock) -> None:
    rng = random.Random(seed)
    runner, draft_runner = FakeRunner(slots=5, max_rows=rng.choice([3, 6, 12])), FakeRunner(near_model, slots=5)
    verifier, drafter = verifier_on(runner), Drafter(draft_runner, description())
    waiting = [
        opening(number, rng.choice(list(Speculation)), tokens=rng.choice([1, 5, 20]), more=rng.choice([1, 8, 15]))
        for number in range(12)
    ]
    present: list[Client] = []
    for _ in range(3_000):
        if waiting and len(present) < 5 and rng.random() < 0.2:
            present.append(Client(verifier, waiting.pop(), clock, drafter, rng, faults=0.2))
        if rng.random() < 0.6:
            drafter.step()
        for client in present:
            if rng.random() < 0.7:
                client.deliver()
        clock.pass_s(verifier.step() or 0)
        for client in [client for client in present if client.finished or rng.random() < 0.005]:
            plain = plain_tokens(client.opening)
            assert client.tokens == (plain if client.finished else plain[: len(client.tokens)])
            client.leave()
            present.remove(client)
        if not (waiting or present):
            break
    assert not waiting
    assert not present
    assert max(len(batch) for batch in runner.batches) > 1, "sessions did share passes"
    assert runner.slots_in_use == draft_runner.slots_in_use == 0
    assert verifier.open_sessions == drafter.open_sessions == 0
    verifier.step()  # a pass may have been left unjudged
    assert verifier.step() is None
    assert drafter.step() is None


@pytest.mark.parametrize("tokens", [1, 9, 20])
def test_a_session_reopened_at_any_cut_continues_with_the_same_tokens(tokens: int, clock: FakeClock) -> None:
    first = opening(4, Speculation.PIPELINED, tokens=tokens, more=14)
    plain = plain_tokens(first)
    for cut in range(tokens, len(plain)):
        drafter = Drafter(FakeRunner(near_model), description())
        again = replace(first, token_ids=tuple(plain[:cut]))
        client = run(Client(verifier_on(FakeRunner()), again, clock, drafter))
        assert client.tokens == plain


@pytest.mark.parametrize("generated_tokens", [0, 1, 7, 13])
@pytest.mark.parametrize("tokens", [1, 2, 8, 9, 10, 20, 25])
def test_prompt_cells_are_filled_in_the_same_chunks_whenever_a_session_is_reopened(
    tokens: int, generated_tokens: int, clock: FakeClock
) -> None:
    first = opening(5, tokens=tokens, more=15)
    runner = FakeRunner()
    again = replace(first, token_ids=tuple(plain_tokens(first)[: tokens + generated_tokens]))
    run(Client(verifier_on(runner), again, clock))
    # All but the prompt's last token, from 0 on, in full chunks and one rest; never a generated token.
    assert [(chunk.position, chunk.token_ids) for chunk in runner.chunks] == [
        (start, first.token_ids[start : min(start + CHUNK_TOKENS, tokens - 1)])
        for start in range(0, tokens - 1, CHUNK_TOKENS)
    ]
    assert min(rows.position for batch in runner.batches for rows in batch) == tokens - 1


def test_what_arrives_while_a_pass_runs_counts_when_its_session_decides_how_to_go_on(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = FakeRunner()
    client = Client(verifier_on(runner), opening(1, Speculation.PIPELINED), clock)
    own = tuple(plain_tokens(client.opening)[5:])
    client.session.offer(block_of(client, own[:2]), 0)
    next_pass(client, runner)
    client.session.offer(block_of(client, own[:4]), 0)
    ready: list[int] = []

    def plan(state: State) -> DraftPlan:
        ready.append(state.ready_tokens)
        return DraftPlan(Speculation.PIPELINED, budget=4, hold_until=0)

    monkeypatch.setattr(client.session.rule, "next", plan)
    next_commit(client)
    assert client.commits[0].token_ids == own[:3], "what was not judged does not count as accepted"
    assert [node.token_id for node in client.session.tree.trunk] == [own[3]]
    assert ready == [1]
    client.leave()


def test_a_session_that_ends_while_its_pass_runs_leaves_its_slot_to_the_next_one(clock: FakeClock) -> None:
    runner = FakeRunner(slots=1)
    verifier = verifier_on(runner)
    leaving = Client(verifier, opening(1, Speculation.HEDGED, tokens=1), clock)
    own = tuple(plain_tokens(leaving.opening)[1:])
    leaving.session.offer(block_of(leaving, (other_than(own[0]),)), 0)
    leaving.session.offer(replace(block_of(leaving, own[:2]), origin=BlockOrigin.HEDGE), 0)
    next_pass(leaving, runner)
    leaving.leave()
    following = Client(verifier, opening(2), clock)
    run(following)
    assert not leaving.commits
    assert not runner.moved, "no cells of the next one's are overwritten"
    assert following.tokens == plain_tokens(following.opening)


def test_prompts_and_passes_take_turns(clock: FakeClock) -> None:
    runner = FakeRunner()
    verifier = verifier_on(runner)
    talking = Client(verifier, opening(1, tokens=2), clock)
    next_commit(talking)
    said = len(talking.tokens)
    listening = [Client(verifier, opening(number, tokens=40, more=2), clock) for number in (2, 3)]
    for chunks in range(1, 11):
        next_commit(talking)
        assert len(runner.chunks) == 1 + chunks, "a long prompt stalls nobody, and a pass waits for one chunk at most"
    assert len(talking.tokens) == said + 10
    # 39 tokens of each are fed, in five chunks.
    assert [chunk.slot for chunk in runner.chunks[1:]] == [client.session.slot for client in listening for _ in "12345"]
    for client in (talking, *listening):
        client.leave()


@pytest.mark.parametrize("prompts", [3, 6])
def test_first_tokens_come_in_the_order_of_arrival_beside_streams_that_go_on(prompts: int, clock: FakeClock) -> None:
    runner = FakeRunner(slots=prompts + 2)
    verifier = verifier_on(runner)
    streams = [Client(verifier, opening(number, tokens=2, more=60), clock) for number in range(2)]
    for stream in streams:
        next_commit(stream)
    arrived = [Client(verifier, opening(9 - number, tokens=30 - number, more=3), clock) for number in range(prompts)]
    urgent = replace(arrived[-1].opening, priority=1)
    arrived[-1].leave()
    arrived[-1] = Client(verifier, urgent, clock)
    began: list[Client] = []
    while len(began) < prompts:
        chunks, passes = len(runner.chunks), len(runner.batches)
        next_commit(streams[0])
        assert len(runner.chunks) - chunks <= 1
        assert len(runner.batches) - passes == 1
        new = [client for client in arrived if client.commits and client not in began]
        assert len(new) <= 1, "the next one's prompt was fed before the first token of the one before"
        began += new
    assert began == [arrived[-1], *arrived[:-1]]
    for client in (*streams, *arrived):
        plain = plain_tokens(client.opening)
        assert client.tokens == plain[: len(client.tokens)]
        client.leave()


@pytest.mark.parametrize(("share", "most", "passes"), [(0.5, 1, 20), (1.0, 1, 10), (3.0, 3, 4)])
def test_the_share_of_prompts_is_a_setting(share: float, most: int, passes: int, clock: FakeClock) -> None:
    runner = FakeRunner()
    verifier = Verifier(runner, description(), 4, prefill_share=share)
    stream = Client(verifier, opening(1, tokens=2, more=60), clock)
    next_commit(stream)
    listening = [Client(verifier, opening(number, tokens=40, more=1), clock) for number in (2, 3)]
    fed = [len(runner.chunks)]
    while not all(client.finished for client in listening):
        next_commit(stream)
        fed.append(len(runner.chunks))
    assert max(after - before for before, after in pairwise(fed)) == most
    assert abs(len(fed) - passes) <= 3
    stream.leave()


def test_without_streams_prompts_are_fed_without_limit_and_messages_are_read_between_their_parts(
    clock: FakeClock,
) -> None:
    runner = FakeRunner()
    verifier = verifier_on(runner)
    first, second = (Client(verifier, opening(number, tokens=40), clock) for number in (1, 2))
    for chunks in range(1, 6):
        assert verifier.step() == 0
        assert len(runner.chunks) == chunks, "a step feeds one part"
    next_commit(first)
    assert len(runner.chunks) == 5, "the first one's token comes before the second one's prompt"
    second.leave()
    first.leave()


def test_blocks_that_come_while_a_prompt_is_fed_join_the_next_pass(clock: FakeClock) -> None:
    runner = FakeRunner()
    verifier = verifier_on(runner)
    stream = Client(verifier, opening(1, Speculation.PIPELINED, tokens=1, more=40), clock)
    next_commit(stream)
    Client(verifier, opening(2, tokens=40), clock)
    clock.pass_s(10)
    fed = len(runner.chunks)
    verifier.step()
    assert len(runner.chunks) == fed + 1
    own = plain_tokens(stream.opening)
    stream.session.offer(block_of(stream, tuple(own[len(stream.tokens) :][:3])), clock.monotonic_ns())
    next_pass(stream, runner)
    assert len(runner.chunks) == fed + 1
    assert len(runner.batches[-1][0].token_ids) == 4


def test_a_pass_that_runs_anyway_draws_a_first_token_without_waiting_for_drafts(clock: FakeClock) -> None:
    runner = FakeRunner()
    verifier = verifier_on(runner)
    alone = Client(verifier, opening(2, Speculation.LOCKSTEP, tokens=20), clock)
    while alone.session.prefill_tokens > 0 or not alone.session.resident:
        verifier.step()
    assert (verifier.step() or 0) > 0.05, "alone it waits for its drafts"
    assert not runner.batches
    stream = Client(verifier, opening(1, tokens=2, more=40), clock)
    next_commit(stream)
    assert len(alone.commits) == 1
    alone.leave()
    stream.leave()


def test_a_pass_that_fails_ends_its_sessions_and_frees_their_slots(clock: FakeClock) -> None:
    runner = FakeRunner()
    verifier = verifier_on(runner)
    clients = [Client(verifier, opening(number), clock) for number in range(3)]
    for _ in range(3):
        verifier.step()
    runner.broken = ZeroDivisionError("no such kernel")
    with pytest.raises(ZeroDivisionError) as caught:
        for _ in range(2):
            verifier.step()
    verifier.fail(caught.value)
    assert [type(error) for client in clients for error in client.errors] == [Unavailable] * 3
    assert runner.slots_in_use == 0
    assert verifier.step() is None
    run(Client(verifier, opening(1), clock))


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (replace(opening(1), token_ids=(1, VOCABULARY_SIZE), prompt_tokens=1), InvalidRequest),
        (replace(opening(1), max_position=5), ContextExceeded),
        (SessionOpen((1,) * CONTEXT_TOKENS, 1), ContextExceeded),
    ],
)
def test_a_refused_opening_takes_no_slot(wrong: SessionOpen, kind: type[Exception], clock: FakeClock) -> None:
    runner = FakeRunner()
    with pytest.raises(kind):
        Client(verifier_on(runner), wrong, clock)
    assert runner.slots_in_use == 0


def test_a_session_too_many_is_refused_and_closing_twice_frees_one_slot(clock: FakeClock) -> None:
    runner = FakeRunner(slots=2)
    verifier = verifier_on(runner)
    first, second = (Client(verifier, opening(number), clock) for number in (1, 2))
    with pytest.raises(Exhausted):
        Client(verifier, opening(3), clock)
    first.leave()
    third = Client(verifier, opening(3), clock)
    first.leave()
    assert verifier.open_sessions == 2
    second.leave()
    third.leave()
    assert runner.slots_in_use == 0


@pytest.mark.parametrize("token_ids", [(VOCABULARY_SIZE,), (1, 2**32 - 1)])
def test_a_block_with_tokens_that_the_target_does_not_know_is_dropped(
    token_ids: tuple[int, ...], clock: FakeClock
) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.PIPELINED), clock)
    assert client.session.offer(block_of(client, token_ids), 0) is Graft.OUTSIDE_VOCABULARY
    assert len(client.session.tree) == 0
    client.leave()


def test_a_block_without_tokens_is_refused(clock: FakeClock) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.PIPELINED), clock)
    with pytest.raises(InvalidRequest):
        client.session.offer(block_of(client, ()), 0)
    client.leave()


# ------------------------------------------------------------------------------------------------------------- waiting


def waiting_session(speculation: Speculation) -> tuple[Client, VerifierSession]:
    clock = FakeClock()
    client = Client(verifier_on(FakeRunner()), opening(3, speculation, tokens=1, more=40), clock)
    client.session.start_waiting(0)
    return client, client.session


def test_lockstep_waits_for_the_whole_window_but_not_forever() -> None:
    client, session = waiting_session(Speculation.LOCKSTEP)
    assert session.due_in_ns(0) >= 100_000_000
    session.offer(block_of(client, (1, 2, 3)), 1_000)
    assert session.due_in_ns(1_000) > 0
    patience_ns = session.due_in_ns(0)
    assert session.due_in_ns(patience_ns) <= 0
    session.offer(block_of(client, (1, 2, 3, 4)), 2_000)
    assert session.due_in_ns(2_000) == 0


def test_a_silent_drafter_is_not_waited_for_twice_until_it_is_heard_again() -> None:
    client, session = waiting_session(Speculation.LOCKSTEP)
    assert session.due_in_ns(0) > 0
    session.launch(10**9)
    session.start_waiting(10**9)
    assert session.due_in_ns(10**9) == 0
    session.launch(2 * 10**9)
    session.start_waiting(2 * 10**9)
    assert session.offer(block_of(client, (1,)), 2 * 10**9) is Graft.ADDED
    assert session.due_in_ns(2 * 10**9) > 0


def test_one_token_is_waited_for_however_little_another_one_after_it_would_be_worth(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.LOCKSTEP, tokens=1), clock)
    plan = DraftPlan(Speculation.LOCKSTEP, budget=4, hold_until=4, least_chance=1.0)
    monkeypatch.setattr(client.session.rule, "next", lambda state: plan)
    client.session.start_waiting(0)
    assert client.session.due_in_ns(1) > 0
    client.session.offer(replace(block_of(client, (1,)), chances=(0.9,)), 0)
    assert client.session.due_in_ns(1) <= 0
    client.leave()


def test_under_the_ratio_test_chances_do_not_decide_what_is_judged(clock: FakeClock) -> None:
    asked = replace(opening(1, Speculation.PIPELINED, tokens=1), acceptance_rule=AcceptanceRule.RATIO_TEST)
    client = Client(verifier_on(FakeRunner()), asked, clock)
    block = replace(block_of(client, (1,)), chances=(0.01,), distributions=(Distribution((1,), (1.0,)),))
    assert client.session.offer(block, 0) is Graft.ADDED
    (node,) = client.session.tree.trunk
    assert client.session.rule.pace.chance(node) == client.session.rule.pace.acceptance_rate.value
    client.leave()


def test_more_than_the_drafter_was_told_to_draft_is_not_waited_for(clock: FakeClock) -> None:
    asked = opening(1, Speculation.LOCKSTEP, tokens=1)
    told = replace(asked, plan=replace(asked.plan, budget=2))
    client = Client(verifier_on(FakeRunner()), told, clock)
    client.session.offer(block_of(client, (1,)), 0)
    assert client.session.due_in_ns(clock.monotonic_ns()) > 0
    client.session.offer(block_of(client, (1, 2)), 0)
    assert client.session.due_in_ns(clock.monotonic_ns()) <= 0
    client.leave()


@pytest.mark.parametrize(("chance", "due"), [(0.39, True), (0.4, True), (0.41, False)])
def test_nothing_is_waited_for_after_a_token_that_is_unlikely_to_be_reached(
    chance: float, due: bool, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.LOCKSTEP, tokens=1), clock)
    plan = DraftPlan(Speculation.LOCKSTEP, budget=4, hold_until=4, least_chance=0.4)
    monkeypatch.setattr(client.session.rule, "next", lambda state: plan)
    client.session.start_waiting(0)
    client.session.offer(replace(block_of(client, (1, 2)), chances=(1.0, chance)), 0)
    assert (client.session.due_in_ns(1) <= 0) == due
    client.leave()


@pytest.mark.parametrize(("known_tokens", "learned"), [(2, True), (0, True), (1, False)])
def test_the_round_trip_is_learned_from_what_answers_a_commit(
    known_tokens: int, learned: bool, clock: FakeClock
) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.PIPELINED, tokens=1), clock)
    next_commit(client)
    before_ns = client.session.rule.pace.round_trip_ns.value
    client.session.offer(replace(block_of(client, (1,)), known_tokens=known_tokens), 10**9)
    assert (client.session.rule.pace.round_trip_ns.value > before_ns) == learned
    client.leave()


def test_the_round_trip_lasts_until_a_block_arrives_and_not_until_a_pass_lets_it_in(clock: FakeClock) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.PIPELINED, tokens=1), clock)
    next_commit(client)
    committed_ns, before_ns = clock.now_ns, client.session.rule.pace.round_trip_ns.value
    clock.pass_s(1.0)
    block = block_to_wire(replace(block_of(client, (1,)), draft_ns=500_000))
    servicer._handle(client.session, servicer._decode(VerifyRequest(blocks=[block])), committed_ns + 2_500_000)
    after_ns = client.session.rule.pace.round_trip_ns.value
    assert after_ns == pytest.approx(before_ns + 0.2 * (2_000_000 - before_ns), abs=10_000)
    client.leave()


def test_the_drafters_prefill_is_not_taken_for_its_round_trip(clock: FakeClock) -> None:
    client = Client(verifier_on(FakeRunner()), opening(1, Speculation.PIPELINED, tokens=20), clock)
    before_ns = client.session.rule.pace.round_trip_ns.value
    assert client.session.offer(block_of(client, (1,)), 10**12) is Graft.ADDED
    assert client.session.rule.pace.round_trip_ns.value == before_ns


# ------------------------------------------------------------------------------------------------------------ branches


def hedged_client(seed: int, clock: FakeClock) -> tuple[Client, FakeRunner, tuple[int, ...]]:
    """A session whose prompt is fed, and the target's own tokens after it."""
    runner = FakeRunner()
    client = Client(verifier_on(runner), opening(seed, Speculation.HEDGED, tokens=1, more=30), clock)
    return client, runner, tuple(plain_tokens(client.opening)[1:])


def next_pass(client: Client, runner: FakeRunner) -> None:
    """Up to where it is to be judged."""
    passes = len(runner.batches)
    while len(runner.batches) == passes:
        client.clock.pass_s(client.verifier.step() or 0)


def next_commit(client: Client) -> None:
    commits = len(client.commits)
    while len(client.commits) == commits:
        client.clock.pass_s(client.verifier.step() or 0)


def other_than(*token_ids: int) -> int:
    return next(token_id for token_id in range(VOCABULARY_SIZE) if token_id not in token_ids)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_one_pass_commits_through_a_rejection_into_a_branch(seed: int, depth: int, clock: FakeClock) -> None:
    client, runner, own = hedged_client(seed, clock)
    wrong = other_than(own[depth])
    trunk = (*own[:depth], wrong, 1, 1)[:4]
    client.session.offer(block_of(client, trunk), 0)
    client.session.offer(replace(block_of(client, own[:4]), origin=BlockOrigin.HEDGE), 0)
    next_commit(client)
    commit = client.commits[0]
    assert commit.token_ids == tuple(own[:5])
    assert commit.accepted == 4
    assert runner.moved, "the branch's cells go where its positions are"
    # What comes after it sees the branch's cells.
    for _ in range(100):
        if client.finished:
            break
        clock.pass_s(client.verifier.step() or 0)
    assert client.tokens == plain_tokens(client.opening)
    client.leave()


def test_a_branch_that_is_wrong_too_leaves_the_trunk_its_tokens(clock: FakeClock) -> None:
    client, runner, own = hedged_client(1, clock)
    wrong = other_than(own[1])
    client.session.offer(block_of(client, (own[0], wrong)), 0)
    client.session.offer(replace(block_of(client, (own[0], other_than(own[1], wrong))), origin=BlockOrigin.HEDGE), 0)
    next_commit(client)
    assert client.commits[0].token_ids == tuple(own[:2])
    assert not runner.moved
    assert any(rows.first_cell is not None for rows in runner.batches[-1]), "it was judged"
    client.leave()


def test_branches_whose_rows_cost_more_than_they_bring_are_not_judged(clock: FakeClock) -> None:
    client, runner, own = hedged_client(1, clock)
    for rows in range(1, 9):
        client.verifier._pass_times.add(rows, 10_000_000 * rows)
    client.session.offer(block_of(client, (own[0], other_than(own[1]))), 0)
    client.session.offer(replace(block_of(client, own[:3]), origin=BlockOrigin.HEDGE), 0)
    next_commit(client)
    assert [rows.first_cell for rows in runner.batches[-1]] == [None]
    client.leave()


def test_passes_are_timed_by_whether_a_drafter_worked_beside_them(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the pass whose commit changes how the session goes on."""
    runner = FakeRunner()
    client = Client(verifier_on(runner), opening(3, Speculation.AUTO), clock)
    rule, pace = client.session.rule, client.session.pace
    plans = [plan_of(way) for way in (Speculation.HEDGED, Speculation.OFF, Speculation.OFF)]
    monkeypatch.setattr(rule, "next", lambda state: plans.pop(0))
    next_commit(client)
    assert pace.pass_times is pace.alone_times, "only one kind of passes was seen"
    next_commit(client)
    assert pace.pass_times is not pace.alone_times
    assert runner.alone == [False, True], "only a pass without a drafter beside it may take every core"
    client.leave()


def test_the_likelier_branches_are_judged_wherever_they_leave_the_trunk(clock: FakeClock) -> None:
    client, runner, own = hedged_client(1, clock)
    client.session.offer(replace(block_of(client, own[:3]), chances=(0.9, 0.5, 0.9)), 0)
    likely, unlikely = other_than(own[1]), other_than(own[0])
    for chance, prefix, hedge in ((0.4, own[:1], likely), (0.02, (), unlikely)):
        block = block_of(client, (*prefix, hedge))
        client.session.offer(replace(block, origin=BlockOrigin.HEDGE, chances=(0.9,) * len(prefix) + (chance,)), 0)
    next_commit(client)
    branches = [rows.token_ids[1:] for rows in runner.batches[-1] if rows.first_cell is not None]
    assert branches[0] == (own[0], likely)
    assert client.commits[0].token_ids[:3] == own[:3]
    client.leave()


def test_rows_after_an_unlikely_token_are_the_first_that_no_longer_pay(clock: FakeClock) -> None:
    client, runner, own = hedged_client(1, clock)
    for rows in range(1, 9):
        client.verifier._pass_times.add(rows, 10_000_000 + 2_000_000 * rows)
    client.session.offer(replace(block_of(client, own[:4]), chances=(0.95, 0.95, 0.05, 0.95)), 0)
    next_commit(client)
    assert [rows.token_ids[1:] for rows in runner.batches[-1]] == [own[:2]]
    client.leave()


@pytest.mark.parametrize("speculation", [Speculation.PIPELINED, Speculation.HEDGED])
def test_a_drafter_that_is_sure_of_everything_and_always_wrong_gets_no_more_rows_than_one_that_reports_no_chances(
    speculation: Speculation, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {told: rows_of_a_wrong_drafter(told, speculation, clock, monkeypatch) for told in (True, False)}
    assert rows[True][0] > rows[False][0], "its word is taken at first"
    assert all(lied <= silent for lied, silent in zip(rows[True][25:], rows[False][25:], strict=True))


def test_a_drafter_is_trusted_again_though_none_of_its_tokens_got_a_row(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, runner, own = hedged_client(1, clock)
    pace = client.session.rule.pace
    pace._excess_error.value, pace.acceptance_rate.value = 0.16, 0.0
    for rows in range(1, 30):
        client.verifier._pass_times.add(rows, 10_000_000 + 2_000_000 * rows)
    monkeypatch.setattr(client.verifier._pass_times, "add", lambda rows, pass_ns: None)
    rows_of_passes: list[int] = []
    allowed_tokens = 0
    while not client.finished and rows_of_passes[-1:] in ([], [1]):
        allowed_tokens = client.session.window_tokens
        client.session.offer(replace(block_of(client, own[:4]), chances=(1.0,) * 4), 0)
        next_commit(client)
        own = own[len(client.commits[-1].token_ids) :]
        rows_of_passes.append(sum(len(each.token_ids) for each in runner.batches[-1]))
    assert rows_of_passes == [1] * (len(rows_of_passes) - 1) + [1 + allowed_tokens]
    assert allowed_tokens > 1
    assert len(rows_of_passes) > 1
    client.leave()


def rows_of_a_wrong_drafter(
    told: bool, speculation: Speculation, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """The rows of each pass where rows are dear, and what is drafted is never what is drawn."""
    runner = FakeRunner()
    client = Client(verifier_on(runner), opening(1, speculation, tokens=1, more=40), clock)
    own = plain_tokens(client.opening)
    for rows in range(1, 30):
        client.verifier._pass_times.add(rows, 10_000_000 + 2_000_000 * rows)
    monkeypatch.setattr(client.verifier._pass_times, "add", lambda rows, pass_ns: None)
    counts = []
    while not client.finished:
        drawn = own[len(client.tokens)]
        trunk, hedge = (other_than(drawn),) * 4, (other_than(drawn, other_than(drawn)),) * 4
        for token_ids, origin in ((trunk, BlockOrigin.TRUNK), (hedge, BlockOrigin.HEDGE)):
            chances = (1.0,) * 4 if told else ()
            client.session.offer(replace(block_of(client, token_ids), origin=origin, chances=chances), 0)
        next_commit(client)
        counts.append(sum(len(each.token_ids) for each in runner.batches[-1]))
    client.leave()
    return counts
