"""Drafted tokens become blocks: one for each run of tokens that follow one another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter_service.calibration import Calibration
from drafter_service.growth import Drafted
from drafter_service.session import DrafterSession, SessionRoom
from sybil_engine.core.draft_tree import DraftNode
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import Block, BlockOrigin, Distribution, Speculation
from sybil_engine.proposers.proposer import ServiceKind
from sybil_engine.proposers.registry import Registry
from tests.unit.fake_runner import CONTEXT_TOKENS, VOCABULARY_SIZE
from tests.unit.messages import advance_after

Path = tuple[int, ...]

PROMPT = (7, 1, 0)
HOLD_ALL = DraftPlan(Speculation.HEDGED, budget=40, rows=4, hold_until=40)
CHANCE = 0.5


@dataclass(frozen=True)
class Said:
    """What a block says of one token."""

    path: Path
    origin: BlockOrigin
    chance: float
    distribution: Distribution | None
    known_tokens: int


class Receiver:
    """A session whose tree a test grows by hand, and what it pushes."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        room = SessionRoom(0, 2 * CONTEXT_TOKENS, CONTEXT_TOKENS, VOCABULARY_SIZE)
        opening = SessionOpen(PROMPT, len(PROMPT), plan=HOLD_ALL)
        noise = NoiseTape(0, VOCABULARY_SIZE, torch.device("cpu"))
        self.session = DrafterSession(
            opening, room, noise, Calibration(), self.take, 0, lambda: True, Registry(ServiceKind.DRAFTER)
        )
        self.drafted: list[tuple[Said, int]] = []

    def take(self, event: tuple[Block, ...] | Exception) -> None:
        assert isinstance(event, tuple)
        self.blocks += event

    def path_to(self, node: DraftNode) -> Path:
        if node.parent is None:
            return tuple(self.session.ledger[:])
        return (*self.path_to(node.parent), node.token_id)

    def draft(self, runs: Sequence[tuple[DraftNode, Path, BlockOrigin]], draft_ns: int) -> None:
        """One pass that drafts these tokens after these nodes."""
        drafted = []
        for node, token_ids, origin in runs:
            for token_id in token_ids:
                chance = CHANCE / (1 + len(self.drafted))
                distribution = Distribution((token_id, len(self.drafted)), (0.75, 0.25))
                drafted.append(Drafted(node, token_id, chance, origin, distribution))
                node = self.session.growth.tree.add(node, token_id, chance)
                known_tokens = len(self.session.ledger)
                self.drafted.append((Said(self.path_to(node), origin, chance, distribution, known_tokens), draft_ns))
        self.session.drafted(drafted, draft_ns)

    def release(self) -> None:
        """Push everything."""
        plan = DraftPlan(Speculation.HEDGED, budget=40, rows=4, hold_until=0)
        self.session.advance(advance_after(self.session.ledger, (0,), plan))
        self.session.push()


def heard(prefixes: dict[int, Path], block: Block) -> Iterator[Said]:
    prefix = prefixes[block.prefix_fingerprint]
    assert len(prefix) == block.position
    told = zip(block.token_ids, block.chances, block.distributions, strict=True)
    for index, (_, chance, distribution) in enumerate(told, start=1):
        yield Said((*prefix, *block.token_ids[:index]), block.origin, chance, distribution, block.known_tokens)


def prefixes_of(paths: Sequence[Path]) -> dict[int, Path]:
    """Every prefix of some paths, by its fingerprint."""
    return {Ledger(path, 1).fingerprint(length): path[:length] for path in paths for length in range(1, len(path) + 1)}


@settings(max_examples=150)
@given(data=st.data())
def test_blocks_say_what_was_drafted_join_runs_and_hang_where_they_say(data: st.DataObject) -> None:
    it = Receiver()
    for _ in range(data.draw(st.integers(1, 5))):
        nodes = list(it.session.growth.tree.root.walk())
        runs = []
        for _ in range(data.draw(st.integers(1, 3))):
            tokens = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=2).map(tuple))
            runs.append((data.draw(st.sampled_from(nodes)), tokens, data.draw(st.sampled_from(BlockOrigin))))
        it.draft(runs, draft_ns=data.draw(st.integers(1, 9)))
        if data.draw(st.booleans()):
            it.session.advance(advance_after(it.session.ledger, (data.draw(st.integers(0, 2)),), HOLD_ALL))
    assert not it.blocks, "all of it is held back"
    it.release()
    said = [each for each, _ in it.drafted]
    prefixes = prefixes_of([each.path for each in said])
    told = [list(heard(prefixes, block)) for block in it.blocks]
    assert [each for block in told for each in block] == said
    for before, after in pairwise(told):
        assert not follows(after[0], before[-1]), "two blocks that are one run"
    for block in told:
        assert all(follows(*reversed(pair)) for pair in pairwise(block)), "one block of two runs"


def follows(after: Said, before: Said) -> bool:
    """Whether a token comes right after another one, drafted of one origin and with the same tokens known."""
    return (after.path[:-1], after.origin, after.known_tokens) == (before.path, before.origin, before.known_tokens)


@pytest.mark.parametrize(
    ("runs", "draft_ns"),
    [
        ([((1, 2), BlockOrigin.TRUNK)], 5),
        ([((1,), BlockOrigin.TRUNK), ((2,), BlockOrigin.HEDGE)], 10),
        ([((1, 2), BlockOrigin.HEDGE), ((2, 1), BlockOrigin.HEDGE)], 10),
    ],
)
def test_a_pass_counts_once_for_each_path_that_it_goes_along(
    runs: list[tuple[Path, BlockOrigin]], draft_ns: int
) -> None:
    it = Receiver()
    it.draft([(it.session.growth.tree.root, *run) for run in runs], draft_ns=5)
    it.release()
    assert sum(block.draft_ns for block in it.blocks) == draft_ns


def test_passes_that_follow_one_another_along_the_trunk_make_one_block_with_their_time() -> None:
    it = Receiver()
    node = it.session.growth.tree.root
    for token_id in (1, 2, 3):
        it.draft([(node, (token_id,), BlockOrigin.TRUNK)], draft_ns=10)
        node = node.children[token_id]
    it.release()
    (block,) = it.blocks
    assert (block.token_ids, block.draft_ns) == ((1, 2, 3), 30)


def test_what_was_drafted_before_a_commit_is_no_block_with_what_was_drafted_after_it() -> None:
    """The verifier learns the round trip from what was drafted with the commit known."""
    it = Receiver()
    root = it.session.growth.tree.root
    it.draft([(root, (0, 1), BlockOrigin.TRUNK)], draft_ns=10)
    it.session.advance(advance_after(it.session.ledger, (0,), HOLD_ALL))
    it.draft([(root.children[0].children[1], (2,), BlockOrigin.TRUNK)], draft_ns=10)
    it.release()
    assert [(block.token_ids, block.known_tokens) for block in it.blocks] == [((0, 1), 3), ((2,), 4)]
