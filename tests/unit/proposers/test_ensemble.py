"""Guesses of several proposers hang in one tree; chances are learned; and nobody's mistakes break anything."""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from sybil_engine.core.draft_tree import DraftTree
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.session import Advance, SessionOpen
from sybil_engine.core.types import Block
from sybil_engine.proposers.aside import Aside, ProposerThread
from sybil_engine.proposers.asked import Asked, Failure, FailureCounts
from sybil_engine.proposers.ensemble import Ensemble
from sybil_engine.proposers.evidence import EvidenceTable
from sybil_engine.proposers.names import check_names
from sybil_engine.proposers.proposer import Continuation, Proposer, ServiceKind
from sybil_engine.proposers.registry import Registry

VOCABULARY = 100
OPENING = SessionOpen((1,), 1)


class Says(Proposer):
    """Gives what a function says of the path."""

    def __init__(self, says: Callable[[tuple[int, ...]], Any]) -> None:
        self.says = says
        self.followed: list[int] = []

    def follow(self, token_ids: Sequence[int]) -> None:
        self.followed += token_ids

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        given: Sequence[Continuation] = self.says(path)
        return given


class Session:
    """A ledger, a tree and the proposers of a session."""

    def __init__(self, *proposers: Proposer, noise: NoiseTape | None = None) -> None:
        self.ledger = Ledger([1, 2, 3], 3)
        self.tree = DraftTree(self.ledger)
        self.failures = FailureCounts()
        asked = [
            Asked(f"proposer {number}", each, EvidenceTable(), VOCABULARY, self.failures)
            for number, each in enumerate(proposers)
        ]
        self.ensemble = Ensemble(asked, self.ledger, self.tree, noise)

    def commit(self, *token_ids: int) -> None:
        position = len(self.ledger)
        self.ledger.append(Advance(position, self.ledger.fingerprint(position), token_ids))
        self.tree.advance()
        self.ensemble.follow()

    def propose(self, most_tokens: int = 8, least_chance: float = 0.05) -> dict[int, float]:
        """The chance of each token proposed right after the ledger."""
        self.ensemble.propose(most_tokens, least_chance)
        return {token_id: node.chance or 0 for token_id, node in self.tree.root.children.items()}


def chain(path: tuple[int, ...]) -> list[Continuation]:
    """50, 51, 52 and so on."""
    return [Continuation(50 + len(path), 0.8)]


def test_a_path_grows_until_it_is_too_unlikely_or_too_long() -> None:
    session = Session(Says(chain))
    session.propose(most_tokens=20, least_chance=0.3)
    # 0.8 to the power of 5 is the last reach of at least 0.3 after which another token is asked for.
    assert session.ensemble.survivals(20) == pytest.approx([0.8**length for length in range(1, 7)])
    short = Session(Says(chain))
    short.propose(most_tokens=3)
    assert len(short.tree) == 3


def test_guesses_of_several_hang_in_one_tree_and_name_their_drafters() -> None:
    session = Session(Says(lambda path: [Continuation(60, 0.5)]), Says(lambda path: [Continuation(61, 0.3)]))
    assert session.propose(most_tokens=1) == {60: 0.5, 61: 0.3}
    assert [node.drafter for node in session.tree.root.children.values()] == ["proposer 0", "proposer 1"]


def test_a_token_that_two_guess_keeps_its_first_drafter_and_the_higher_chance() -> None:
    session = Session(Says(lambda path: [Continuation(60, 0.5)]), Says(lambda path: [Continuation(60, 0.7)]))
    assert session.propose(most_tokens=1) == {60: 0.7}
    assert session.tree.root.children[60].drafter == "proposer 0"


def test_proposers_go_on_after_tokens_of_drafter_services() -> None:
    asked: list[tuple[int, ...]] = []

    def note(path: tuple[int, ...]) -> list[Continuation]:
        asked.append(path)
        return [Continuation(70 + len(path), 0.5)]

    session = Session(Says(note))
    fingerprint = session.ledger.fingerprint(3)
    session.tree.graft(Block(3, fingerprint, (40, 41), chances=(0.9, 0.9)))
    session.propose()
    assert (40, 41) in asked
    assert session.tree.trunk[-1].children[72].drafter == "proposer 0"


def test_proposed_tokens_are_no_trunk_until_a_block_brings_them() -> None:
    session = Session(Says(chain))
    session.propose()
    assert not session.tree.trunk
    session.tree.graft(Block(3, session.ledger.fingerprint(3), (50, 51), chances=(0.9, 0.9)))
    assert [node.token_id for node in session.tree.trunk] == [50, 51]


def test_every_committed_token_is_followed_once() -> None:
    proposer = Says(chain)
    session = Session(proposer)
    session.commit(50, 51)
    session.commit(9)
    assert proposer.followed == session.ledger[:]


def test_a_proposer_that_lies_about_its_chances_is_not_believed_for_long() -> None:
    liar = Session(Says(lambda path: [Continuation(99, 1.0)]))
    modest = Session(Says(lambda path: [Continuation(7, 0.01)]))
    for _ in range(60):
        for session in (liar, modest):
            session.propose(most_tokens=1)
            session.commit(7)
    assert liar.propose(most_tokens=1).get(99, 0) < 0.05
    assert modest.propose(most_tokens=1)[7] > 0.8


GARBAGE: dict[str, Any] = {
    "a token outside the vocabulary": [Continuation(VOCABULARY, 0.5)],
    "a negative token": [Continuation(-1, 0.5)],
    "no token": [Continuation("x", 0.5)],  # type: ignore[arg-type]
    "a chance above 1": [Continuation(5, 1.5)],
    "a chance that is no number": [Continuation(5, float("nan"))],
    "evidence that cannot be counted": [Continuation(5, 0.5, evidence=[])],  # type: ignore[arg-type]
    "something else": ["continuation"],
    "nothing at all": None,
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_dropped_and_counted(garbage: str) -> None:
    session = Session(Says(lambda path: GARBAGE[garbage]), Says(lambda path: [Continuation(60, 0.5)]))
    assert session.propose(most_tokens=1) == {60: 0.5}
    assert sum(session.failures.values()) == 1


def failing(path: tuple[int, ...]) -> list[Continuation]:
    raise RuntimeError("broken")


def test_one_that_raises_is_asked_three_times_a_session() -> None:
    session = Session(Says(failing))
    for token_id in range(10):
        session.propose()
        session.commit(token_id)
    assert session.failures == {("proposer 0", Failure.RAISED): 3}


@pytest.mark.parametrize("aside", [False, True])
def test_endless_continuations_are_cut(aside: bool) -> None:
    def endless(path: tuple[int, ...]) -> Any:
        while True:
            yield Continuation(5, 0.1)

    here = Says(endless)
    session = Session(Aside(lambda opening: here, ProposerThread(), OPENING, patience_s=2) if aside else here)
    assert session.propose(most_tokens=1) == {5: 0.1}


def test_one_that_hangs_costs_one_thread_however_many_sessions_use_it() -> None:
    release = threading.Event()

    def hang(path: tuple[int, ...]) -> list[Continuation]:
        release.wait(30)
        return []

    thread, before = ProposerThread(), threading.active_count()
    for _ in range(5):
        session = Session(Aside(lambda opening: Says(hang), thread, OPENING))
        session.propose()
        session.commit(9)
        session.ensemble.close()
    assert threading.active_count() == before + 1
    release.set()


def test_one_that_hangs_holds_nobody_up_and_is_counted() -> None:
    def hang(path: tuple[int, ...]) -> list[Continuation]:
        time.sleep(30)
        return []

    session = Session(Aside(lambda opening: Says(hang), ProposerThread(), OPENING, patience_s=0.005))
    start_s = time.monotonic()
    for token_id in range(20):
        session.propose()
        session.commit(token_id)
    assert time.monotonic() - start_s < 2
    assert session.failures == {("proposer 0", Failure.LATE): 1}


def test_one_on_a_thread_of_its_own_guesses_as_it_would_anywhere() -> None:
    session = Session(Aside(lambda opening: Says(chain), ProposerThread(), OPENING, patience_s=2))
    assert session.propose(most_tokens=1) == {50: 0.8}
    session.commit(50)
    assert list(session.propose(most_tokens=1)) == [50]


class Forgetful(Says):
    """Fails at its second call of `follow`."""

    def follow(self, token_ids: Sequence[int]) -> None:
        if self.followed:
            raise RuntimeError("broken")
        super().follow(token_ids)


def test_one_that_has_missed_tokens_is_not_believed_any_more() -> None:
    session = Session(Aside(lambda opening: Forgetful(chain), ProposerThread(), OPENING, patience_s=2))
    assert session.propose(most_tokens=1)
    session.commit(9)
    assert not session.propose(most_tokens=1)
    assert session.failures[("proposer 0", Failure.RAISED)] == 1


def test_one_that_cannot_be_made_fails_when_it_is_asked() -> None:
    def broken(opening: SessionOpen) -> Proposer:
        raise RuntimeError("no")

    session = Session(Aside(broken, ProposerThread(), OPENING, patience_s=2))
    assert session.propose() == {}
    assert session.failures == {("proposer 0", Failure.RAISED): 1}


def test_one_that_does_not_pay_rests_and_comes_back() -> None:
    calls: list[int] = []

    def count_calls(path: tuple[int, ...]) -> list[Continuation]:
        calls.append(0)
        return [Continuation(99, 0.5)]

    session = Session(Says(count_calls))
    asked_in = []
    for number in range(400):
        before = len(calls)
        session.propose(most_tokens=1)
        session.commit(7)
        # Asking takes as long as committing many tokens does.
        session.ensemble.saw_commit([], token_ns=1.0)
        if len(calls) > before:
            asked_in.append(number)
    assert 10 < len(asked_in) < 150
    assert max(late - early for early, late in pairwise(asked_in)) > 20


def test_with_noise_the_winner_under_it_comes_first() -> None:
    noise = NoiseTape(5, VOCABULARY)
    session = Session(Says(lambda path: [Continuation(token, 0.3, token) for token in (10, 20, 30)]), noise=noise)
    row = noise.rows(3, 1)[0]
    given = session.propose(most_tokens=1)
    assert max(given, key=given.__getitem__) == max((10, 20, 30), key=lambda token: float(row[token]))


def test_evidence_takes_bounded_memory() -> None:
    table = EvidenceTable()
    for number in range(20_000):
        table.saw(number, right=True)
    assert len(table._counts) <= 4096


@pytest.mark.parametrize("name", ["lookups", "Lookup", "modle"])
def test_an_unknown_drafter_names_the_nearest(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no drafter .*did you mean '(lookup|model)'.*choose from model"):
        check_names((name,), Registry(ServiceKind.VERIFIER).names)


def test_without_names_it_is_the_usual_ones_that_there_are() -> None:
    assert check_names((), ("lookup", "suffix")) == ("model", "lookup")
    assert check_names((), ()) == ("model",)


def test_a_session_gets_the_proposers_it_names() -> None:
    ledger = Ledger([1, 2, 1], 3)
    registry = Registry(ServiceKind.VERIFIER)
    offered = ("model", "lookup", "lookup", "elsewhere")
    ensemble = registry.ensemble(OPENING, offered, ledger, DraftTree(ledger), NoiseTape(0, 9), 9)
    assert ensemble
    assert not registry.ensemble(OPENING, ("model",), ledger, DraftTree(ledger), NoiseTape(0, 9), 9)
