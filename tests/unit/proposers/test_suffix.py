"""`suffix` and its index find what a search through everything finds, in bounded memory."""

import random
import tracemalloc
from collections.abc import Sequence

import pytest

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.suffix import Suffix
from sybil_engine.proposers.suffix_index import END_OF_TEXT, MOST_AGREED, SuffixIndex
from sybil_engine.proposers.suffix_memory import SuffixMemory


def agreed_at(text: Sequence[int], place: int, end: Sequence[int], first: int = 0) -> int:
    agreed = 0
    while agreed < min(len(end), place - first) and text[place - 1 - agreed] == end[-1 - agreed]:
        agreed += 1
    return agreed


def random_text(seed: int, tokens: int, vocabulary_size: int = 6) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(vocabulary_size) for _ in range(tokens)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dropped", [0, 130])
def test_every_match_is_real_and_none_agrees_longer(seed: int, dropped: int) -> None:
    text = random_text(seed, 300)
    index = SuffixIndex()
    index.extend(text)
    index.drop_before(dropped)
    for stop in range(150, 300, 7):
        end = text[stop - MOST_AGREED : stop]
        matches = index.matches(end)
        for match in matches:
            assert match.agreed == agreed_at(text, match.place, end, dropped)
        real = [agreed_at(text, place, end, dropped) for place in range(dropped + 1, 300)]
        found = max((match.agreed for match in matches), default=0)
        # Chains are walked to a bounded depth: a longer match may hide among many of six tokens or more.
        assert found >= min(max(real), 6)


def test_added_at_once_or_one_by_one_is_the_same() -> None:
    text = random_text(1, 200)
    at_once, one_by_one = SuffixIndex(), SuffixIndex()
    at_once.extend(text)
    for token_id in text:
        one_by_one.extend([token_id])
    end = text[-MOST_AGREED:]
    assert at_once.matches(end[:-1]) == one_by_one.matches(end[:-1]) != []


def test_what_was_dropped_is_not_found() -> None:
    index = SuffixIndex()
    index.extend([1, 2, 3, 4, END_OF_TEXT, *random_text(2, 50, 3)])
    assert [index[match.place] for match in index.matches([1, 2, 3])] == [4]
    index.drop_before(5)
    assert index.matches([1, 2, 3]) == []


def test_no_text_goes_on_after_its_end() -> None:
    index = SuffixIndex()
    index.extend([1, 2, 3, END_OF_TEXT, 7, 8, 9, END_OF_TEXT])
    assert index.matches([1, 2, 3]) == []
    assert [index[match.place] for match in index.matches([7, 8])] == [9]


def test_continuations_are_counted_and_the_longest_match_comes_first() -> None:
    suffix = Suffix()
    suffix.follow([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3, 8, 9, 2, 3, 5, 1, 2, 3])
    given = {each.token_id: each for each in suffix.continuations(())}
    assert given[8].chance > given[7].chance > 0
    assert given[5].chance < given[8].chance
    assert {each.token_id for each in suffix.continuations((8,))} == {1, 9}


def chances_after(*followers: int) -> dict[int, float]:
    """Chances after a pair of tokens that each of these followed once, always after another token."""
    suffix = Suffix()
    for number, token_id in enumerate(followers):
        suffix.follow([100 + number, 2, 3, token_id])
    suffix.follow([99, 2, 3])
    return {each.token_id: each.chance for each in suffix.continuations(())}


def test_places_that_agree_with_one_another_are_believed_more() -> None:
    once, twice, often, split = chances_after(4), chances_after(4, 4), chances_after(4, 4, 4), chances_after(4, 5)
    assert max(split.values()) < once[4] < twice[4] < often[4]
    assert set(split) == {4, 5}


def test_a_path_is_followed_as_text_would_be() -> None:
    phrases = [random_text(seed, 12, 200) for seed in range(6)]
    text = [token_id for number in random_text(9, 40) for token_id in phrases[number]]
    compared = 0
    for stop in range(300, 340):
        on_path, in_text = Suffix(), Suffix()
        on_path.follow(text[:stop])
        in_text.follow(text[: stop + 2])
        path = tuple(text[stop : stop + 2])
        if on_path.continuations(path[:1]) and (given := in_text.continuations(())):
            best = max(given, key=lambda each: each.chance)
            assert best.token_id in {each.token_id for each in on_path.continuations(path)}
            compared += 1
    assert compared > 20


def ended(memory: SuffixMemory, tenant: str, output: Sequence[int]) -> None:
    proposer = memory.open(SessionOpen((1, 2), 2, tenant=tenant))
    proposer.follow([1, 2])
    proposer.follow(output)
    proposer.close()


def test_outputs_are_remembered_and_tenants_kept_apart() -> None:
    memory = SuffixMemory(2**20)
    ended(memory, "ann", [10, 11, 12, 13])
    for tenant, known in (("ann", [13]), ("bob", []), ("", [])):
        proposer = memory.open(SessionOpen((5,), 1, tenant=tenant))
        proposer.follow([5, 10, 11, 12])
        assert [each.token_id for each in proposer.continuations(())] == known


def test_prompts_are_not_remembered() -> None:
    memory = SuffixMemory(2**20)
    ended(memory, "ann", [10, 11])
    proposer = memory.open(SessionOpen((1,), 1, tenant="ann"))
    proposer.follow([1, 2])
    assert proposer.continuations(()) == ()


def test_the_oldest_output_goes_first_and_memory_stays_within_its_bound() -> None:
    memory = SuffixMemory(300_000)
    outputs = [random_text(seed, 200, 1000) for seed in range(60)]
    for number, output in enumerate(outputs):
        ended(memory, f"tenant {number % 3}", output)
        assert memory.held_bytes <= 300_000
    newest, oldest = memory.index(f"tenant {59 % 3}"), memory.index("tenant 0")
    assert newest.matches(outputs[59][50:60])
    assert not oldest.matches(outputs[0][50:60])


def test_a_place_that_was_dropped_while_a_session_knew_it_is_not_followed() -> None:
    memory = SuffixMemory(150_000)
    output = random_text(0, 100, 1000)
    ended(memory, "ann", output)
    proposer = memory.open(SessionOpen((5,), 1, tenant="ann"))
    proposer.follow([5, *output[40:50]])
    assert [each.token_id for each in proposer.continuations(())] == [output[50]]
    for seed in range(1, 20):
        ended(memory, "ann", random_text(seed, 100, 1000))
    assert proposer.continuations(()) == ()
    assert output[51] not in {each.token_id for each in proposer.continuations((output[50],))}


def test_a_tenant_without_outputs_takes_no_memory_once_its_sessions_end() -> None:
    memory = SuffixMemory(2**20)
    for number in range(100):
        ended(memory, f"tenant {number}", [])
    assert (len(memory), memory.held_bytes) == (0, 0)


def test_tenants_whose_outputs_are_all_forgotten_leave_nothing() -> None:
    memory = SuffixMemory(300_000)
    for number in range(200):
        ended(memory, f"tenant {number}", random_text(number, 100, 1000))
    assert len(memory) < 40
    ended(memory, "large", random_text(0, 20_000, 1000))
    assert (len(memory), memory.held_bytes) == (0, 0)


def test_an_output_that_a_session_is_opened_again_with_is_kept_once() -> None:
    memory = SuffixMemory(2**20)
    ended(memory, "ann", [10, 11, 12])
    again = memory.open(SessionOpen((1, 2, 10, 11, 12), 2, tenant="ann"))
    again.follow([1, 2, 10, 11, 12])
    again.follow([13])
    again.close()
    assert len(memory.index("ann")) == len([10, 11, 12, END_OF_TEXT, 13, END_OF_TEXT])


@pytest.mark.parametrize("tokens", [3, 20, 200, 5000])
def test_no_more_bytes_are_taken_than_are_counted(tokens: int) -> None:
    texts = [random_text(seed, tokens, 4000) for seed in range(max(1, 20_000 // tokens))]
    names = [f"tenant {number}" for number in range(len(texts))]
    tracemalloc.start()
    memory = SuffixMemory(2**30)
    for tenant, text in zip(names, texts, strict=True):
        memory.add(tenant, text)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken <= memory.held_bytes <= 2 * taken


def test_dropping_frees_what_was_dropped() -> None:
    texts = [random_text(seed, 500, 4000) for seed in range(40)]
    tracemalloc.start()
    index = SuffixIndex()
    for text in texts:
        index.extend(text)
    index.drop_before(index.end - 1000)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == 1000
    assert taken <= index.held_bytes < 500_000


def test_sessions_of_nobody_in_particular_share_nothing() -> None:
    memory = SuffixMemory(2**20)
    ended(memory, "", [10, 11, 12, 13])
    assert memory.held_bytes == 0
    proposer = memory.open(SessionOpen((5,), 1))
    proposer.follow([5, 10, 11, 12])
    assert not [each for each in proposer.continuations(()) if each.token_id == 13]
