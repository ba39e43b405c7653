"""The drafter's context: at every draft pass its cells and rows are the ledger's tokens, then its own trunk."""

import random
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter_service.engine import Drafter
from drafter_service.growth import Growth
from drafter_service.session import DrafterSession
from drafter_service.share import choose_rows
from sybil_engine.core.draft_tree import DraftNode, DraftTree, Graft
from sybil_engine.core.errors import CommitGap, ContextExceeded, InvalidRequest, Unavailable
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import Advance, SessionOpen
from sybil_engine.core.types import Block, BlockOrigin, SamplingParams, Speculation
from tests.unit.fake_runner import (
    CONTEXT_TOKENS,
    VOCABULARY_SIZE,
    FakeRunner,
    description,
    near_model,
    plain_tokens,
)
from tests.unit.messages import advance_after, some_prompt

pytestmark = pytest.mark.usefixtures("one_thread", "clock")

BUDGET = 4
PLAN = DraftPlan(Speculation.PIPELINED, BUDGET)
HEDGED = DraftPlan(Speculation.HEDGED, BUDGET, rows=4)


def opening(seed: int, tokens: int = 5, plan: DraftPlan = PLAN) -> SessionOpen:
    sampling = SamplingParams() if seed % 2 else SamplingParams(temperature=1.0)
    return SessionOpen(some_prompt(seed, tokens), tokens, sampling, seed, plan=plan)


@dataclass
class Watched:
    """A drafter whose every row is held against its session's ledger and trunk."""

    runner: FakeRunner
    drafter: Drafter
    sessions: dict[int, DrafterSession]
    blocks: dict[int, list[Block]]
    rows_seen: int = 0

    def open(self, opening: SessionOpen) -> DrafterSession:
        blocks: list[Block] = []

        def take(event: tuple[Block, ...] | Exception) -> None:
            assert isinstance(event, tuple)
            blocks.extend(event)

        session = self.drafter.open(opening, take)
        self.sessions[session.slot] = session
        self.blocks[session.slot] = blocks
        return session

    def check(self, slot: int, paths: list[list[int]]) -> None:
        session = self.sessions[slot]
        trunk = session.ledger[:] + trunk_of(session.growth.tree)
        for path in paths:
            both = min(len(path), len(session.ledger))
            assert path[:both] == session.ledger[:both], "the drafter's context left the ledger"
            if not session.growth.hedges:
                assert path == trunk[: len(path)], "the drafter's context is not the ledger's, then the trunk's"
        self.rows_seen += len(paths)


def watched(slots: int = 4, max_rows: int = 6) -> Watched:
    runner = FakeRunner(near_model, slots, max_rows)
    watched = Watched(runner, Drafter(runner, description()), {}, {})
    runner.watch_tree = watched.check
    return watched


def trunk_of(tree: DraftTree) -> list[int]:
    return [node.token_id for node in tree.trunk]


def drain(drafter: Drafter) -> int:
    steps = 0
    while drafter.step() is not None:
        steps += 1
        assert steps < 200, "drafting never ends"
    return steps


@pytest.mark.parametrize("seed", range(12))
def test_at_every_draft_pass_the_context_is_the_ledgers_and_then_the_trunks(seed: int) -> None:
    rng = random.Random(seed)
    it = watched(slots=3, max_rows=rng.choice([3, 6, 12]))
    sessions = [it.open(opening(number, tokens=rng.choice([1, 5, 20]))) for number in range(3)]
    for _ in range(60):
        for _ in range(rng.randrange(5)):
            it.drafter.step()
        session = rng.choice(sessions)
        if len(session.ledger) > CONTEXT_TOKENS - 8:
            continue
        trunk = trunk_of(session.growth.tree)
        # A part of the trunk, all of it, more than it, or something else: whatever the target may decide.
        agreed = trunk[: rng.randrange(len(trunk) + 1)]
        own = [rng.randrange(VOCABULARY_SIZE) for _ in range(rng.randrange(1 if agreed else 2, 3))]
        if agreed or own:
            session.advance(advance_after(session.ledger, tuple(agreed + own), replace(PLAN, budget=rng.randrange(6))))
    assert it.rows_seen > 50
    for session in sessions:
        it.drafter.close(session)
    assert it.runner.slots_in_use == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 30])
def test_the_trunk_is_what_the_draft_model_would_say_with_the_sessions_noise(seed: int, tokens: int) -> None:
    it = watched()
    session = it.open(opening(seed, tokens))
    drain(it.drafter)
    drafted = [token_id for block in it.blocks[session.slot] for token_id in block.token_ids]
    assert drafted == plain_tokens(replace(opening(seed, tokens), max_position=tokens + BUDGET), near_model)[tokens:]
    rejected = (drafted[0], (drafted[1] + 1) % VOCABULARY_SIZE)
    session.advance(advance_after(session.ledger, rejected, PLAN))
    it.blocks[session.slot].clear()
    drain(it.drafter)
    again = replace(opening(seed, tokens), token_ids=tuple(session.ledger[:]), max_position=tokens + 2 + BUDGET)
    assert [token for block in it.blocks[session.slot] for token in block.token_ids] == plain_tokens(again, near_model)[
        tokens + 2 :
    ]


@pytest.mark.parametrize("seed", range(4))
def test_every_block_hangs_where_it_says(seed: int) -> None:
    it = watched()
    session = it.open(opening(seed))
    receiver = Ledger(opening(seed).token_ids, 1)
    tree = DraftTree(receiver)
    for own in (3, 9, 27):
        drain(it.drafter)
        assert {tree.graft(block) for block in it.blocks[session.slot]} == {Graft.ADDED}
        assert trunk_of(tree) == trunk_of(session.growth.tree)
        it.blocks[session.slot].clear()
        advance = advance_after(receiver, (tree.trunk[0].token_id, own), PLAN)
        session.advance(advance)
        receiver.append(advance)
        tree.advance()


@pytest.mark.parametrize("budget", [0, 1, 3, 10, 10_000])
@pytest.mark.parametrize("max_position", [6, 8, 0])
def test_nothing_is_drafted_beyond_the_budget_or_the_last_position(budget: int, max_position: int) -> None:
    it = watched()
    session = it.open(replace(opening(1, plan=replace(PLAN, budget=budget)), max_position=max_position))
    drain(it.drafter)
    # The last position is the target's own.
    end = (max_position or CONTEXT_TOKENS) - 1
    assert len(session.growth.tree.trunk) == min(budget, end - 5)
    assert all(block.position + len(block.token_ids) <= end for block in it.blocks[session.slot])


def test_a_budget_beyond_what_the_tree_holds_ends_all_the_same() -> None:
    it = watched()
    session = it.open(opening(1, plan=replace(PLAN, budget=1_000)))
    session.growth.tree.capacity_tokens = 6
    drain(it.drafter)
    assert 5 <= len(session.growth.tree) <= 6


def test_a_plan_with_no_budget_switches_drafting_off_and_another_one_on() -> None:
    it = watched()
    session = it.open(opening(1))
    drain(it.drafter)
    session.advance(advance_after(session.ledger, (1,), replace(PLAN, budget=0)))
    assert it.drafter.step() is None
    session.advance(advance_after(session.ledger, (2,), replace(PLAN, budget=2)))
    drain(it.drafter)
    assert len(session.growth.tree) == 2


def test_drafts_are_held_back_until_there_are_as_many_as_are_waited_for() -> None:
    for hold_until, lengths in (
        (0, [1] * BUDGET),
        (1, [1] * BUDGET),
        (3, [3, 1]),
        (BUDGET, [BUDGET]),
        (BUDGET + 5, [BUDGET]),
    ):
        it = watched()
        session = it.open(opening(1, plan=replace(PLAN, hold_until=hold_until)))
        drain(it.drafter)
        assert [len(block.token_ids) for block in it.blocks[session.slot]] == lengths


def test_sessions_share_draft_passes() -> None:
    it = watched()
    for number in range(3):
        it.open(opening(number, tokens=1))
    assert drain(it.drafter) == BUDGET
    assert [len(batch) for batch in it.runner.tree_batches] == [3] * BUDGET


def test_more_sessions_than_rows_take_turns() -> None:
    it = watched(slots=5, max_rows=2)
    sessions = [it.open(opening(number, tokens=1)) for number in range(5)]
    for _ in range(5):
        it.drafter.step()
    assert sorted(len(session.growth.tree) for session in sessions) == [2] * 5


def test_prompts_are_fed_in_the_order_of_arrival_beside_sessions_that_draft() -> None:
    it = watched(slots=4)
    drafting = it.open(opening(1, tokens=1, plan=replace(PLAN, budget=30)))
    it.drafter.step()
    long = [it.open(opening(number, tokens=30 - number)) for number in (2, 3)]
    urgent = it.open(replace(opening(4, tokens=30), priority=1))
    while any(session.prefill_tokens > 0 for session in (*long, urgent)):
        chunks, passes = len(it.runner.chunks), len(it.runner.tree_batches)
        it.drafter.step()
        it.drafter.step()
        assert len(it.runner.chunks) - chunks == len(it.runner.tree_batches) - passes == 1
        assert drafting.slot in {rows.slot for rows in it.runner.tree_batches[-1]}
    order = list(dict.fromkeys(chunk.slot for chunk in it.runner.chunks))
    assert order == [urgent.slot, *(session.slot for session in long)]
    drain(it.drafter)


def test_sessions_that_grow_branches_take_no_more_than_their_part_of_a_pass() -> None:
    it = watched(max_rows=12)
    plain = it.open(opening(0, tokens=1))
    for number in (1, 2, 3):
        it.open(opening(number, tokens=1, plan=HEDGED))
    drain(it.drafter)
    assert len(trunk_of(plain.growth.tree)) == BUDGET
    first_passes = it.runner.tree_batches[:BUDGET]
    assert all(plain.slot in {rows.slot for rows in batch} for batch in first_passes), "it was in every pass"
    assert all(len(rows.token_ids) <= 12 // 4 for batch in first_passes for rows in batch)
    assert any(len(rows.token_ids) > 1 for batch in first_passes for rows in batch)


def test_the_more_sessions_share_a_pass_the_fewer_branches_each_grows() -> None:
    times = PassTimes()
    for rows in (1, 5, 9) * 5:
        # Five rows make a pass a quarter longer.
        times.add(rows, 1_000_000 + (rows - 1) * 62_500)
    taken = []
    for sessions in (1, 2, 4):
        it = watched(max_rows=64)
        session = it.open(opening(0, tokens=1, plan=replace(HEDGED, rows=8)))
        for _ in range(2):
            it.drafter.step()
        taken.append(len(choose_rows(session, 64, times, sessions=sessions).rows.token_ids))
    assert taken == [5, 3, 2]


def test_a_gap_or_an_unknown_token_changes_nothing() -> None:
    it = watched()
    session = it.open(opening(1))
    drain(it.drafter)
    before = (session.ledger[:], trunk_of(session.growth.tree), session.plan)
    with pytest.raises(CommitGap):
        session.advance(Advance(9, 0, (1,)))
    with pytest.raises(InvalidRequest, match="token ids must be below"):
        session.advance(advance_after(session.ledger, (VOCABULARY_SIZE,), PLAN))
    assert before == (
        session.ledger[:],
        trunk_of(session.growth.tree),
        session.plan,
    )


@pytest.mark.parametrize("max_position", [8, 0])
def test_a_session_follows_commits_to_its_end_and_none_beyond(max_position: int) -> None:
    it = watched()
    session = it.open(replace(opening(1), max_position=max_position))
    end = max_position or CONTEXT_TOKENS
    last = advance_after(session.ledger, (1,) * (end - len(session.ledger)), PLAN)
    with pytest.raises(ContextExceeded, match=f"ends at position {end + 1}, but the session at {end}"):
        session.advance(replace(last, token_ids=(*last.token_ids, 1)))
    assert len(session.ledger) == session.opening.prompt_tokens, "what is refused changes nothing"
    session.advance(last)
    session.advance(last)
    with pytest.raises(ContextExceeded):
        session.advance(advance_after(session.ledger, (1,), PLAN))
    assert len(session.ledger) == end
    assert it.drafter.step() is None


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 50))
def test_a_repeated_or_a_late_advance_changes_nothing(data: st.DataObject, seed: int) -> None:
    it = watched(max_rows=12)
    session = it.open(opening(seed, plan=HEDGED))
    told: list[Advance] = []
    for _ in range(data.draw(st.integers(1, 5))):
        for _ in range(data.draw(st.integers(0, 6))):
            it.drafter.step()
        path = [node.token_id for node in data.draw(st.sampled_from([[], session.growth.tree.trunk]))]
        plan = DraftPlan(
            data.draw(st.sampled_from([Speculation.PIPELINED, Speculation.HEDGED])),
            budget=data.draw(st.integers(0, 6)),
            rows=data.draw(st.sampled_from([1, 4])),
            hold_until=data.draw(st.integers(0, 3)),
        )
        told.append(advance_after(session.ledger, (*path[:3], data.draw(st.integers(0, VOCABULARY_SIZE - 1))), plan))
        session.advance(told[-1])
        before = state_of(session)
        session.advance(data.draw(st.sampled_from(told)))
        assert state_of(session) == before
    drain(it.drafter)


def state_of(session: DrafterSession) -> list[object]:
    """All that decides what the session does next."""
    return [
        session.ledger[:],
        session.plan,
        {node.fingerprint for node in session.growth.tree.root.walk()},
        trunk_of(session.growth.tree),
        [session.cells.fed_tokens, session.cells.hedge_cells],
        session.wants_draft,
        [each.token_id for run in session._held_back for each in run.tokens],
        list(session._outgoing),
    ]


def test_a_pass_that_fails_ends_its_sessions_and_frees_their_slots() -> None:
    runner = FakeRunner(near_model)
    drafter = Drafter(runner, description())
    events: list[tuple[Block, ...] | Exception] = []
    drafter.open(opening(1), events.append)
    runner.broken = ZeroDivisionError("no such kernel")
    with pytest.raises(ZeroDivisionError) as caught:
        drain(drafter)
    drafter.fail(caught.value)
    assert [type(event) for event in events] == [Unavailable]
    assert runner.slots_in_use == drafter.open_sessions == 0
    assert drafter.step() is None


@pytest.mark.parametrize("seed", range(12))
def test_on_every_branch_the_context_is_the_ledgers_and_then_a_paths(seed: int) -> None:
    rng = random.Random(seed)
    it = watched(slots=3, max_rows=rng.choice([3, 6, 12]))
    sessions = [it.open(opening(number, plan=replace(HEDGED, budget=6))) for number in range(3)]
    while min(len(session.ledger) for session in sessions) < CONTEXT_TOKENS - 8:
        for _ in range(rng.randrange(5)):
            it.drafter.step()
        session = rng.choice([each for each in sessions if len(each.ledger) < CONTEXT_TOKENS - 8])
        token_ids = walk(session.growth.tree.root, rng)
        if not token_ids or rng.random() < 0.3:
            token_ids = (*token_ids, rng.randrange(VOCABULARY_SIZE))
        session.advance(advance_after(session.ledger, token_ids, replace(HEDGED, budget=rng.randrange(8))))
    assert it.rows_seen > 100


@pytest.mark.parametrize("seed", range(12))
def test_a_session_never_needs_more_cells_than_it_was_checked_for(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Growth, "_LEAST_CHANCE", 0.0)
    rng, end = random.Random(seed), 24
    it = watched(slots=1, max_rows=12)
    session = it.open(replace(opening(seed, plan=replace(HEDGED, budget=9)), max_position=end))
    most_cells = end + it.runner.tree_cells - it.runner.context_tokens
    while len(session.ledger) < end:
        for _ in range(rng.randrange(8)):
            it.drafter.step()
            assert session.cells.used_cells <= most_cells
        token_ids = (*walk(session.growth.tree.root, rng), rng.randrange(VOCABULARY_SIZE))[: end - len(session.ledger)]
        session.advance(advance_after(session.ledger, token_ids, replace(HEDGED, budget=rng.randrange(10))))
    assert session.cells.used_cells > end, "hedges took cells of their own"


def walk(node: DraftNode, rng: random.Random) -> tuple[int, ...]:
    """The tokens of a random path in a draft tree: what the target may decide."""
    tokens: list[int] = []
    while node.children and rng.random() < 0.8:
        node = rng.choice(list(node.children.values()))
        tokens.append(node.token_id)
    return tuple(tokens)


def with_hedges(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Watched, DrafterSession, list[DraftNode]]:
    """A session whose tree is grown, and the hedges at its root that something is drafted after."""
    monkeypatch.setattr(Growth, "_LEAST_CHANCE", 0.0)
    it = watched(max_rows=12)
    session = it.open(opening(seed, plan=HEDGED))
    drain(it.drafter)
    tree = session.growth.tree
    hedges = [node for token, node in tree.root.children.items() if token != trunk_of(tree)[0] and node.children]
    assert hedges
    return it, session, hedges


@pytest.mark.parametrize("seed", range(6))
def test_a_commit_that_runs_into_a_hedge_keeps_it_and_feeds_none_of_it_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, session, hedges = with_hedges(seed, monkeypatch)
    hedge = hedges[0]
    following = next(iter(hedge.children.values())).token_id
    fed = sum(len(rows.token_ids) for batch in it.runner.tree_batches for rows in batch)
    session.advance(advance_after(session.ledger, (hedge.token_id,), replace(HEDGED, budget=1)))
    assert trunk_of(session.growth.tree)[0] == following
    assert not session.wants_draft
    assert session.unfed_tokens == 0
    assert fed == sum(len(rows.token_ids) for batch in it.runner.tree_batches for rows in batch)


@pytest.mark.parametrize("seed", range(6))
def test_after_a_hedge_the_draft_model_goes_on_as_it_would_without_branches(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session, hedges = with_hedges(seed, monkeypatch)
    for hedge in hedges:
        prefix = (*session.ledger[:], hedge.token_id)
        following = next(iter(hedge.children.values())).token_id
        assert (
            following
            == plain_tokens(replace(opening(seed), token_ids=prefix, max_position=len(prefix) + 1), near_model)[-1]
        )


@pytest.mark.parametrize("seed", range(6))
def test_blocks_say_how_likely_each_token_is_and_bring_runners_up_that_nothing_grows_after(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Growth, "_LEAST_CHANCE", 0.001)
    it = watched(max_rows=12)
    session = it.open(opening(seed, plan=replace(HEDGED, rows=2)))
    drain(it.drafter)
    blocks = it.blocks[session.slot]
    assert all(len(block.chances) == len(block.token_ids) for block in blocks)
    assert all(0 < chance < 1 for block in blocks for chance in block.chances)
    received = DraftTree(Ledger(session.ledger[:], 5))
    assert {received.graft(block) for block in blocks} <= {Graft.ADDED, Graft.REPEATED}
    grown = {node.fingerprint for node in session.growth.tree.root.walk()}
    here = {node.fingerprint for node in received.root.walk()}
    assert grown < here, "all that grows, and runners-up"
    assert all(not node.children for node in received.root.walk() if node.fingerprint not in grown)


def test_without_hedges_there_are_no_runners_up() -> None:
    it = watched(max_rows=12)
    session = it.open(opening(2))
    drain(it.drafter)
    assert [block.origin for block in it.blocks[session.slot]] == [BlockOrigin.TRUNK] * len(it.blocks[session.slot])
    assert [token for block in it.blocks[session.slot] for token in block.token_ids] == trunk_of(session.growth.tree)


@pytest.mark.parametrize("least_chance", [0.0, 0.2, 0.5, 1.0])
def test_the_trunk_ends_after_the_first_token_that_is_too_unlikely_and_is_pushed(least_chance: float) -> None:
    it = watched(max_rows=12)
    session = it.open(opening(2))
    drain(it.drafter)
    plan = replace(PLAN, budget=12, hold_until=12, least_chance=least_chance)
    pushed = it.blocks[session.slot]
    pushed.clear()
    session.advance(advance_after(session.ledger, (1,), plan))
    drain(it.drafter)
    chances = [chance for block in pushed for chance in block.chances]
    survivals = list(accumulate(chances, mul))
    assert all(survival >= least_chance for survival in survivals[:-1])
    assert survivals[-1] < least_chance or len(survivals) == 12
    assert [token for block in pushed for token in block.token_ids] == trunk_of(session.growth.tree)


def test_freed_cells_are_used_again() -> None:
    it = watched(max_rows=12)
    session = it.open(opening(2, plan=replace(HEDGED, budget=8)))
    for own in range(40):
        drain(it.drafter)
        session.advance(advance_after(session.ledger, (own % VOCABULARY_SIZE,), replace(HEDGED, budget=8)))
    cells = {cell for batch in it.runner.tree_batches for rows in batch for cell in rows.cells}
    assert len(cells) <= it.runner.tree_cells
    assert session.cells.hedge_cells == it.runner.tree_cells - CONTEXT_TOKENS, "all but the ledger's are free again"


def test_a_session_without_room_for_blocks_drafts_nothing_until_there_is_some() -> None:
    it, room = watched(), [False]
    session = it.drafter.open(opening(1), lambda event: blocks.append(event), lambda: room[0])
    it.sessions[session.slot] = session
    blocks: list[object] = []
    drain(it.drafter)
    assert not blocks
    room[0] = True
    drain(it.drafter)
    assert blocks
