"""The ledger only grows, only by commits, and only by what is new in them."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.errors import CommitConflict, CommitGap
from sybil_engine.core.ledger import EMPTY_FINGERPRINT, Ledger, extend_fingerprint
from sybil_engine.core.session import Commit
from sybil_engine.core.types import CommittedToken

TOKENS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12)
FEW_TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def commit_of(tokens: list[int], position: int, end: int) -> Commit:
    """The commit that says `tokens[position:end]`, made for the prefix before it."""
    said = tuple(CommittedToken(token_id) for token_id in tokens[position:end])
    return Commit(position, Ledger(tokens, 1).fingerprint(position), said)


def state(ledger: Ledger) -> tuple[list[int], list[int]]:
    return ledger[:], [ledger.fingerprint(position) for position in range(len(ledger) + 1)]


@settings(max_examples=40)
@given(tokens=TOKENS, data=st.data())
def test_a_repeated_commit_changes_nothing(tokens: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(1, len(tokens)))
    ledger = Ledger(tokens[:start], 1)
    commit = commit_of(tokens, start, len(tokens))
    assert ledger.append(commit) == len(tokens) - start
    before = state(ledger)
    assert ledger.append(commit) == 0
    assert state(ledger) == before
    assert ledger[:] == tokens


@settings(max_examples=40)
@given(tokens=TOKENS, data=st.data())
def test_what_a_drafter_reads_of_a_commit_appends_the_same(tokens: list[int], data: st.DataObject) -> None:
    committed = data.draw(st.integers(1, len(tokens)))
    position = data.draw(st.integers(0, committed))
    commit = commit_of(tokens, position, len(tokens))
    ledgers = [Ledger(tokens[:committed], 1) for _ in range(2)]
    assert ledgers[0].append(commit) == ledgers[1].append(commit.advance)
    assert state(ledgers[0]) == state(ledgers[1])


@settings(max_examples=40)
@given(tokens=TOKENS, data=st.data())
def test_an_overlapping_commit_appends_only_the_rest(tokens: list[int], data: st.DataObject) -> None:
    committed = data.draw(st.integers(1, len(tokens)))
    position = data.draw(st.integers(0, committed))
    end = data.draw(st.integers(position, len(tokens)))
    ledger = Ledger(tokens[:committed], 1)
    assert ledger.append(commit_of(tokens, position, end)) == max(0, end - committed)
    assert ledger[:] == tokens[: max(committed, end)]


@settings(max_examples=40)
@given(tokens=TOKENS, cuts=st.lists(st.integers(1, 12), max_size=5))
def test_fingerprints_do_not_depend_on_how_tokens_were_appended(tokens: list[int], cuts: list[int]) -> None:
    ledger = Ledger(tokens[:1], 1)
    bounds = sorted({1, len(tokens), *(cut for cut in cuts if cut <= len(tokens))})
    for position, end in pairwise(bounds):
        ledger.append(commit_of(tokens, position, end))
    assert state(ledger) == state(Ledger(tokens, len(tokens)))


@settings(max_examples=40)
@given(first=FEW_TOKENS, second=FEW_TOKENS)
def test_fingerprints_are_equal_exactly_when_the_prefixes_are(first: list[int], second: list[int]) -> None:
    one, other = Ledger(first, 1), Ledger(second, 1)
    for position in range(len(first) + 1):
        for place in range(len(second) + 1):
            same = one.fingerprint(position) == other.fingerprint(place)
            assert same == (first[:position] == second[:place])


def test_fingerprints_of_many_prefixes_never_collide() -> None:
    """Token ids next to each other, in every order: what a weak mix would confuse."""
    fingerprints = {EMPTY_FINGERPRINT}
    layer = [EMPTY_FINGERPRINT]
    for _ in range(5):
        layer = [extend_fingerprint(fingerprint, token_id) for fingerprint in layer for token_id in range(8)]
        fingerprints.update(layer)
    assert len(fingerprints) == sum(8**length for length in range(6))
    assert all(0 <= fingerprint < 2**64 for fingerprint in fingerprints)


@pytest.mark.parametrize("missing_tokens", [1, 2, 100])
def test_a_gap_is_an_error_and_leaves_the_ledger_unchanged(missing_tokens: int) -> None:
    ledger = Ledger([5, 6, 7], 2)
    before = state(ledger)
    with pytest.raises(CommitGap, match="reopen the session"):
        ledger.append(Commit(3 + missing_tokens, 0, (CommittedToken(8),)))
    assert state(ledger) == before


@pytest.mark.parametrize("seed", range(20))
def test_a_conflict_is_an_error_and_leaves_the_ledger_unchanged(seed: int) -> None:
    rng = random.Random(seed)
    tokens = [rng.randrange(10) for _ in range(8)]
    ledger = Ledger(tokens[:6], 1)
    before = state(ledger)
    other = list(tokens)
    changed = rng.randrange(6)
    other[changed] += 1
    # Either the commit repeats another token, or it was made for another prefix.
    position = rng.randrange(7)
    with pytest.raises(CommitConflict, match="reopen the session"):
        ledger.append(commit_of(other, position, 8))
    assert state(ledger) == before


def test_a_commit_made_for_another_prefix_of_the_same_length_is_a_conflict() -> None:
    ledger = Ledger([1, 2, 3], 3)
    with pytest.raises(CommitConflict):
        ledger.append(commit_of([1, 9, 3, 4], 3, 4))
    assert ledger[:] == [1, 2, 3]


def test_an_empty_commit_appends_nothing() -> None:
    ledger = Ledger([1, 2], 1)
    assert ledger.append(commit_of([1, 2], 2, 2)) == 0
    assert ledger[:] == [1, 2]


def test_the_number_of_prompt_tokens_stays_while_the_ledger_grows() -> None:
    ledger = Ledger([1, 2, 3], 2)
    ledger.append(commit_of([1, 2, 3, 4], 3, 4))
    assert ledger.prompt_tokens == 2
    assert len(ledger) == 4
