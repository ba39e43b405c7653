"""`lookup` gives what stood after the same tokens before; `forced` what a constraint leaves."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from sybil_engine.proposers.forced import Forced
from sybil_engine.proposers.lookup import Lookup


def test_it_gives_what_followed_the_longest_match() -> None:
    lookup = Lookup()
    lookup.follow([1, 2, 3, 9, 2, 3, 5, 1, 2, 3])
    assert [each.token_id for each in lookup.continuations(())] == [9]
    assert [each.token_id for each in lookup.continuations((9,))] == [2]
    assert [each.token_id for each in lookup.continuations((9, 2, 3))] == [5]


@pytest.mark.parametrize("seed", range(4))
def test_every_continuation_stood_after_the_last_tokens_before(seed: int) -> None:
    source = random.Random(seed)
    text = [source.randrange(5) for _ in range(200)]
    lookup = Lookup()
    lookup.follow(text)
    path: tuple[int, ...] = ()
    for _ in range(8):
        given = lookup.continuations(path)
        last = [*text, *path][-1]
        pairs = set(pairwise(text))
        assert given
        assert all((last, each.token_id) in pairs for each in given)
        path += (given[0].token_id,)


def followers(text: Sequence[int], path: Sequence[int]) -> set[int]:
    """What followed the longest end of a text and a path, of four tokens or fewer, wherever it stood in the text."""
    whole = [*text, *path]
    for length in range(4, 0, -1):
        end = whole[-length:]
        found = {text[place] for place in range(length, len(text)) if list(text[place - length : place]) == end}
        if found:
            return found
    return set()


@pytest.mark.parametrize("seed", range(4))
def test_no_place_agrees_longer_than_the_one_it_follows(seed: int) -> None:
    source = random.Random(seed)
    text, lookup = [source.randrange(4) for _ in range(40)], Lookup()
    lookup.follow(text)
    for _ in range(120):
        path: tuple[int, ...] = ()
        for token_id in source.choices(range(5), k=4):
            given = {each.token_id for each in lookup.continuations(path)}
            assert given <= followers(text, path)
            assert bool(given) == bool(followers(text, path))
            path += (token_id,)
        text.append(source.randrange(4))
        lookup.follow(text[-1:])


def test_a_path_is_forgotten_when_more_is_committed() -> None:
    lookup = Lookup()
    lookup.follow([1, 2, 3, 1, 2])
    assert [each.token_id for each in lookup.continuations(())] == [3]
    lookup.follow([7])
    assert [each.token_id for each in lookup.continuations(())] == []


class OneOf:
    """The output must be one of these."""

    def __init__(self, *choices: tuple[int, ...]) -> None:
        self._choices = choices
        self._output: tuple[int, ...] = ()

    def follow(self, token_ids: Sequence[int]) -> None:
        self._output += tuple(token_ids)

    def only_token(self, path: tuple[int, ...]) -> int | None:
        text = self._output + path
        following = {each[len(text)] for each in self._choices if each[: len(text)] == text and len(each) > len(text)}
        return following.pop() if len(following) == 1 else None


def test_forced_gives_the_only_token_and_nothing_where_there_is_a_choice() -> None:
    forced = Forced(OneOf((4, 5, 6), (4, 5, 7, 8)), prompt_tokens=2)
    forced.follow([90, 91])
    assert [each.token_id for each in forced.continuations(())] == [4]
    assert [each.token_id for each in forced.continuations((4,))] == [5]
    assert forced.continuations((4, 5)) == ()
    forced.follow([4, 5, 7])
    assert [each.token_id for each in forced.continuations(())] == [8]
    assert Forced().continuations(()) == ()
