"""Prompts are fed in the order of their sessions, and take no more of the time before a pass than their share."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sybil_engine.core.prefill import Prefill, first_come, rank

CHUNK = 8


@dataclass(eq=False)
class Prompt:
    """A session that is all prompt."""

    number: int
    prefill_tokens: int
    priority: int = 0


def prompts_of(*lengths: int) -> list[Prompt]:
    return [Prompt(number, tokens) for number, tokens in enumerate(lengths)]


def feed(prefill: Prefill[Prompt], prompts: Sequence[Prompt], *, due: bool = True) -> list[tuple[int, int]]:
    """Feed until a pass comes first, or nothing is left: whose prompts, and how many tokens of each."""
    fed = []
    while part := prefill.next_part(prompts, due=due):
        prompt, tokens = part
        assert 0 < tokens <= prompt.prefill_tokens
        prompt.prefill_tokens -= tokens
        prefill.fed(tokens)
        fed.append((prompt.number, tokens))
    return fed


def chunks(fed: Sequence[tuple[int, int]]) -> int:
    return sum(ceil(tokens / CHUNK) for _, tokens in fed)


lengths = st.lists(st.integers(1, 10 * CHUNK), min_size=1, max_size=6)
shares = st.sampled_from([0.05, 0.3, 0.5, 1.0, 1.5, 2.0, 3.7])


@given(lengths, shares, st.integers(1, 3), st.integers(0, 3))
def test_no_later_prompt_is_fed_before_an_earlier_one_is_whole(
    lengths: list[int], share: float, lanes: int, priorities: int
) -> None:
    prompts = prompts_of(*lengths)
    for prompt in prompts:
        prompt.priority = prompt.number % (priorities + 1)
    prefill: Prefill[Prompt] = Prefill(CHUNK, lanes * CHUNK, share)
    fed: list[int] = []
    while any(prompt.prefill_tokens for prompt in prompts):
        fed += [number for number, _ in feed(prefill, prompts)]
        prefill.passed()
    in_order = sorted(prompts, key=lambda each: (-each.priority, each.number))
    assert list(dict.fromkeys(fed)) == [prompt.number for prompt in in_order]
    assert sorted(fed, key=[prompt.number for prompt in in_order].index) == fed
    assert sorted(prompts, key=rank) == in_order


@given(shares, st.integers(1, 3), st.integers(1, 40))
def test_between_two_passes_prompts_take_their_share_and_no_more(share: float, lanes: int, passes: int) -> None:
    # Whole chunks, which no prompt's end cuts short.
    prefill: Prefill[Prompt] = Prefill(CHUNK, lanes * CHUNK, share)
    prompts, taken = prompts_of(10_000 * CHUNK), 0
    for number in range(1, passes + 1):
        fed = chunks(feed(prefill, prompts))
        assert fed <= ceil(share * lanes)
        taken += fed
        assert abs(taken - number * share * lanes) < 1, "what is less than a chunk is kept for the next pass"
        prefill.passed()


@given(st.lists(st.integers(1, 3 * CHUNK), min_size=30, max_size=30), shares, st.integers(1, 3))
def test_ends_of_prompts_count_as_chunks(lengths: list[int], share: float, lanes: int) -> None:
    prefill: Prefill[Prompt] = Prefill(CHUNK, lanes * CHUNK, share)
    prompts = prompts_of(*lengths)
    while any(prompt.prefill_tokens for prompt in prompts):
        assert chunks(feed(prefill, prompts)) <= ceil(share * lanes)
        prefill.passed()


@given(lengths, shares)
def test_while_nobody_is_due_prompts_are_fed_without_limit(lengths: list[int], share: float) -> None:
    prefill: Prefill[Prompt] = Prefill(CHUNK, 2 * CHUNK, share)
    prompts = prompts_of(*lengths)
    feed(prefill, prompts, due=False)
    assert not any(prompt.prefill_tokens for prompt in prompts)


def test_what_a_prompts_end_leaves_goes_to_the_next_one() -> None:
    prefill: Prefill[Prompt] = Prefill(CHUNK, 2 * CHUNK)
    prompts = prompts_of(2 * CHUNK + 3, 3 * CHUNK)
    fed = []
    for _ in range(3):
        fed.append(feed(prefill, prompts))
        prefill.passed()
    assert fed == [[(0, 2 * CHUNK)], [(0, 3), (1, CHUNK)], [(1, 2 * CHUNK)]]


def test_passes_without_prompts_save_nothing_up() -> None:
    prefill: Prefill[Prompt] = Prefill(CHUNK, CHUNK, share=1.0)
    for _ in range(100):
        prefill.passed()
    assert chunks(feed(prefill, prompts_of(50 * CHUNK))) == 1


def test_a_prompt_that_was_fed_while_nobody_was_due_holds_up_the_pass_that_follows_for_nobody_else() -> None:
    prefill: Prefill[Prompt] = Prefill(CHUNK, CHUNK)
    first, second = prompts_of(5 * CHUNK, 5 * CHUNK)
    feed(prefill, [first], due=False)
    assert not feed(prefill, [first, second]), "the first one's token comes before the second one's prompt"


def test_the_next_prompt_can_be_chosen_in_another_way() -> None:
    def last_come(prompts: Sequence[Prompt]) -> Prompt:
        return max(prompts, key=rank)

    prefill = Prefill(CHUNK, CHUNK, 4.0, last_come)
    assert [number for number, _ in feed(prefill, prompts_of(CHUNK, CHUNK, CHUNK))] == [2, 1, 0]
    assert first_come(prompts_of(CHUNK, CHUNK)).number == 0


@pytest.mark.parametrize("seed", range(5))
def test_first_come_first_served_halves_the_mean_wait_of_round_robin(seed: int) -> None:
    served = [-1] * 8

    def round_robin(prompts: Sequence[Prompt]) -> Prompt:
        chosen = min(prompts, key=lambda each: served[each.number])
        served[chosen.number] = max(served) + 1
        return chosen

    rng = random.Random(seed)
    lengths = [rng.randrange(100, 120) for _ in range(8)]
    means = []
    for choose in (first_come, round_robin):
        prefill = Prefill(CHUNK, CHUNK, 1.0, choose)
        prompts, waits = prompts_of(*lengths), dict[int, int]()
        for passes in range(1, 200):
            feed(prefill, prompts)
            prefill.passed()
            waits |= {each.number: passes for each in prompts if not each.prefill_tokens and each.number not in waits}
        assert len(waits) == 8
        means.append(sum(waits.values()) / 8)
    assert means[0] <= 0.6 * means[1]
