"""The draft tree against a naive model: a set of token paths, each written out from the start of the prompt."""

from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sybil_engine.core.draft_tree import DraftNode, DraftTree, Graft
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.types import Block, BlockOrigin, Distribution
from tests.unit.messages import advance_after, block_after

Path = tuple[int, ...]

TOKEN = st.integers(0, 2)
TOKENS = st.lists(TOKEN, min_size=1, max_size=4).map(tuple)
ORIGIN = st.sampled_from(BlockOrigin)
CAPACITY_TOKENS = 24
PROMPT = (7, 1, 0)


def extend(ledger: Ledger, tokens: Path) -> None:
    ledger.append(advance_after(ledger, tokens))


def best_tokens(tree: DraftTree) -> Path:
    return tuple(node.token_id for node in tree.trunk)


@dataclass
class PathModel:
    """What a draft tree means: which paths are drafted, in the order in which they came, and which child is trunk."""

    committed: Path
    drafted: dict[Path, None] = field(default_factory=dict)
    trunk: dict[Path, int] = field(default_factory=dict)

    def graft(self, prefix: Path, token_ids: Path, origin: BlockOrigin) -> Graft:
        full = prefix + token_ids
        if len(prefix) < len(self.committed):
            both = min(len(full), len(self.committed))
            if full[:both] != self.committed[:both]:
                return Graft.STALE
            path = self.committed
        elif prefix == self.committed or prefix in self.drafted:
            path = prefix
        else:
            return Graft.UNKNOWN_PREFIX
        outcome = Graft.REPEATED
        size_before = len(self.drafted)
        walked: dict[Path, int] = {}
        for token_id in full[len(path) :]:
            longer = (*path, token_id)
            if longer not in self.drafted:
                if len(self.drafted) == CAPACITY_TOKENS:
                    outcome = Graft.FULL
                    break
                self.drafted[longer] = None
                outcome = Graft.ADDED
            walked[path] = token_id
            path = longer
        if origin is BlockOrigin.TRUNK and len(self.drafted) > size_before:
            self.trunk |= walked
        return outcome

    def add(self, prefix: Path, token_id: int, *, on_trunk: bool) -> None:
        self.drafted[*prefix, token_id] = None
        if on_trunk:
            self.trunk[prefix] = token_id

    def commit(self, token_ids: Path) -> int:
        agreeing = 0
        while agreeing < len(token_ids) and self.committed + token_ids[: agreeing + 1] in self.drafted:
            agreeing += 1
        self.committed += token_ids
        length = len(self.committed)
        self.drafted = {path: None for path in self.drafted if len(path) > length and path[:length] == self.committed}
        self.trunk = {path: token for path, token in self.trunk.items() if (*path, token) in self.drafted}
        return agreeing

    def best(self) -> Path:
        path = self.committed
        while True:
            children = [longer[-1] for longer in self.drafted if longer[:-1] == path]
            if not children:
                return path[len(self.committed) :]
            path = (*path, self.trunk.get(path, children[0]))


class TreeAgainstPaths(RuleBasedStateMachine):
    """Any mix of grafts, commits and drops, in any order."""

    @initialize()
    def plant(self) -> None:
        self.ledger = Ledger(PROMPT, len(PROMPT))
        self.tree = DraftTree(self.ledger, CAPACITY_TOKENS)
        self.model = PathModel(PROMPT)
        self.sent: list[tuple[Path, Path, BlockOrigin]] = []

    def graft(self, prefix: Path, token_ids: Path, origin: BlockOrigin) -> None:
        self.sent.append((prefix, token_ids, origin))
        outcome = self.tree.graft(block_after(prefix, token_ids, origin))
        assert outcome is self.model.graft(prefix, token_ids, origin)

    @rule(data=st.data(), token_ids=TOKENS, origin=ORIGIN)
    def graft_anywhere(self, data: st.DataObject, token_ids: Path, origin: BlockOrigin) -> None:
        prefix = data.draw(st.sampled_from([self.model.committed, *self.model.drafted]))
        self.graft(prefix, token_ids, origin)

    @rule(data=st.data(), token_ids=TOKENS, origin=ORIGIN)
    def graft_late(self, data: st.DataObject, token_ids: Path, origin: BlockOrigin) -> None:
        """A block sent before the last commits, which repeats what they say, in part or in whole."""
        position = data.draw(st.integers(0, len(self.model.committed)))
        spoken = self.model.committed[position:] + token_ids
        self.graft(self.model.committed[:position], spoken[: data.draw(st.integers(1, len(spoken)))], origin)

    @rule(data=st.data(), token_ids=TOKENS, origin=ORIGIN)
    def graft_contradicting(self, data: st.DataObject, token_ids: Path, origin: BlockOrigin) -> None:
        """A block whose prefix or tokens may disagree with the ledger."""
        position = data.draw(st.integers(0, len(self.model.committed)))
        prefix = list(self.model.committed[:position])
        contradicts = data.draw(st.booleans())
        if prefix and contradicts:
            prefix[data.draw(st.integers(0, position - 1))] += 1
        self.graft(tuple(prefix), token_ids, origin)

    @precondition(lambda self: len(self.tree) < self.tree.capacity_tokens)
    @rule(data=st.data(), token_id=TOKEN, on_trunk=st.booleans())
    def add(self, data: st.DataObject, token_id: int, on_trunk: bool) -> None:
        """One token more, as a drafter adds it."""
        parent = data.draw(st.sampled_from(list(self.tree.root.walk())))
        path = self.model.committed + self.path_to(parent)
        child = self.tree.add(parent, token_id, None, on_trunk=on_trunk)
        assert self.path_to(child) == (*self.path_to(parent), token_id)
        self.model.add(path, token_id, on_trunk=on_trunk)

    def path_to(self, node: DraftNode) -> Path:
        if node is self.tree.root:
            return ()
        assert node.parent is not None
        return (*self.path_to(node.parent), node.token_id)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.graft(*data.draw(st.sampled_from(self.sent)))

    @rule(data=st.data(), more=TOKENS, agree=st.booleans())
    def commit(self, data: st.DataObject, more: Path, agree: bool) -> None:
        token_ids = more
        if agree and self.model.drafted:
            path = data.draw(st.sampled_from(list(self.model.drafted)))
            token_ids = path[len(self.model.committed) :] + (more if data.draw(st.booleans()) else ())
        extend(self.ledger, token_ids)
        assert self.tree.advance() == self.model.commit(token_ids)
        assert self.tree.advance() == 0

    @rule()
    def drop(self) -> None:
        self.tree.drop()
        self.model.drafted.clear()
        self.model.trunk.clear()

    @invariant()
    def the_tree_holds_the_paths(self) -> None:
        assert len(self.tree) == len(self.model.drafted)
        assert self.tree.position == len(self.model.committed)
        assert best_tokens(self.tree) == self.model.best()
        assert list(self.tree.trunk) == self.tree.best_path(self.tree.root), "the cached trunk is a stale one"
        for node, length in zip(self.tree.trunk, range(1, CAPACITY_TOKENS + 1), strict=False):
            path = self.model.committed + self.model.best()[:length]
            assert node.position == len(path) - 1
            assert node.fingerprint == Ledger(path, 1).fingerprint(len(path))


class TestTreeAgainstPaths(TreeAgainstPaths.TestCase):  # type: ignore[valid-type, misc]
    settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def planted(capacity_tokens: int = 512) -> tuple[Ledger, DraftTree]:
    ledger = Ledger(PROMPT, len(PROMPT))
    return ledger, DraftTree(ledger, capacity_tokens)


@pytest.mark.parametrize("origin", BlockOrigin)
def test_grafting_a_block_again_changes_nothing(origin: BlockOrigin) -> None:
    _, tree = planted()
    block = block_after(PROMPT, (1, 2, 3), origin)
    assert tree.graft(block) is Graft.ADDED
    assert tree.graft(block) is Graft.REPEATED
    assert best_tokens(tree) == (1, 2, 3)
    assert len(tree) == 3


def test_hedges_may_come_in_any_order_once_their_prefixes_are_known() -> None:
    trunk = block_after(PROMPT, (1, 2, 3))
    hedges = [
        block_after(PROMPT, (5,), BlockOrigin.HEDGE),
        block_after((*PROMPT, 1), (6, 7), BlockOrigin.HEDGE),
        block_after((*PROMPT, 1, 2), (8,), BlockOrigin.HEDGE),
    ]
    for order in permutations(hedges):
        _, tree = planted()
        assert {tree.graft(block) for block in (trunk, *order)} == {Graft.ADDED}
        assert best_tokens(tree) == (1, 2, 3)
        assert len(tree) == 7


def test_a_block_that_overtakes_its_prefix_is_unknown_and_welcome_when_sent_again() -> None:
    _, tree = planted()
    first, second = block_after(PROMPT, (1, 2)), block_after((*PROMPT, 1, 2), (3,))
    assert tree.graft(second) is Graft.UNKNOWN_PREFIX
    assert len(tree) == 0
    assert tree.graft(first) is Graft.ADDED
    assert tree.graft(second) is Graft.ADDED
    assert best_tokens(tree) == (1, 2, 3)


def test_a_late_block_counts_from_the_first_uncommitted_token() -> None:
    ledger, tree = planted()
    extend(ledger, (1, 2))
    assert tree.advance() == 0
    assert tree.graft(block_after(PROMPT, (1, 2, 3, 4))) is Graft.ADDED
    assert best_tokens(tree) == (3, 4)
    assert tree.graft(block_after(PROMPT, (1, 2))) is Graft.REPEATED
    assert tree.graft(block_after(PROMPT, (1, 9, 3))) is Graft.STALE
    assert tree.graft(block_after((7, 1, 9), (1, 2, 3))) is Graft.STALE


def test_a_late_block_keeps_each_distribution_with_its_token() -> None:
    ledger, tree = planted()
    extend(ledger, (1,))
    tree.advance()
    distributions = tuple(Distribution((token_id,), (1.0,)) for token_id in (1, 2, 3))
    late = block_after(PROMPT, (1, 2, 3))
    tree.graft(Block(late.position, late.prefix_fingerprint, late.token_ids, distributions=distributions))
    kept = [(node.token_id, node.distribution) for node in tree.trunk]
    assert kept == [(2, distributions[1]), (3, distributions[2])]


def test_a_fingerprint_at_another_position_is_unknown() -> None:
    _, tree = planted()
    right = block_after(PROMPT, (1,))
    assert tree.graft(Block(right.position + 1, right.prefix_fingerprint, (1,))) is Graft.UNKNOWN_PREFIX
    assert tree.graft(Block(right.position, right.prefix_fingerprint ^ 1, (1,))) is Graft.UNKNOWN_PREFIX
    assert len(tree) == 0


def test_a_full_tree_takes_no_more_until_the_root_moves() -> None:
    ledger, tree = planted(capacity_tokens=3)
    assert tree.graft(block_after(PROMPT, (1, 2, 3, 4))) is Graft.FULL
    assert best_tokens(tree) == (1, 2, 3)
    assert tree.graft(block_after(PROMPT, (1, 2, 3))) is Graft.REPEATED
    extend(ledger, (1,))
    tree.advance()
    assert tree.graft(block_after(PROMPT, (1, 2, 3, 4))) is Graft.ADDED
    assert best_tokens(tree) == (2, 3, 4)


def test_a_hedge_that_the_target_chose_becomes_the_root_and_its_siblings_are_dropped() -> None:
    ledger, tree = planted()
    tree.graft(block_after(PROMPT, (1, 2, 3)))
    tree.graft(block_after((*PROMPT, 1), (5, 6), BlockOrigin.HEDGE))
    extend(ledger, (1, 5))
    assert tree.advance() == 2
    assert best_tokens(tree) == (6,)
    assert len(tree) == 1
    assert tree.graft(block_after((*PROMPT, 1, 2), (3,))) is Graft.UNKNOWN_PREFIX


def test_the_best_path_prefers_the_trunk_and_then_the_oldest_hedge() -> None:
    _, tree = planted()
    tree.graft(block_after(PROMPT, (5, 1), BlockOrigin.HEDGE))
    tree.graft(block_after(PROMPT, (6, 1), BlockOrigin.HEDGE))
    assert best_tokens(tree) == (5, 1)
    tree.graft(block_after((*PROMPT, 5), (2,), BlockOrigin.HEDGE))
    assert best_tokens(tree) == (5, 1)
    tree.graft(block_after(PROMPT, (6,)))
    assert best_tokens(tree) == (5, 1), "a block that adds nothing changes nothing"
    tree.graft(block_after(PROMPT, (6, 1, 3)))
    assert best_tokens(tree) == (6, 1, 3)


@pytest.mark.parametrize("capacity_tokens", [512, 4_000])
def test_a_tree_as_deep_as_its_capacity_can_still_advance(capacity_tokens: int) -> None:
    ledger, tree = planted(capacity_tokens)
    tree.graft(block_after(PROMPT, tuple(range(capacity_tokens))))
    extend(ledger, (0,))
    assert tree.advance() == 1
    assert len(tree.trunk) == capacity_tokens - 1
