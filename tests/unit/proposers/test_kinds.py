"""Laws of every kind: a call takes as long late in a text as early in it, and asking changes no later answer."""

import random
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter_ns

import pytest

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.lookup import Lookup
from sybil_engine.proposers.prediction import Prediction
from sybil_engine.proposers.proposer import Proposer
from sybil_engine.proposers.suffix import Suffix

EARLY, LATE, TIMED = 150, 6_000, 100

KINDS: dict[str, Callable[[Sequence[int]], Proposer]] = {
    "lookup": lambda text: Lookup(),
    "suffix": lambda text: Suffix(),
    "prediction": lambda text: Prediction(SessionOpen((1,), 1, prediction=tuple(text))),
    "prediction of another text": lambda text: Prediction(SessionOpen((1,), 1, prediction=tuple(reversed(text)))),
}
TEXTS: dict[str, list[int]] = {
    "one token again and again": [3] * LATE,
    "two tokens at random": random.Random(1).choices(range(2), k=LATE),
    "many tokens at random": random.Random(2).choices(range(4000), k=LATE),
}


def median_ns(proposer: Proposer, text: Sequence[int]) -> float:
    """The median of ten parts of a text, followed token by token."""
    size, times = len(text) // 10, []
    for start in range(0, len(text), size):
        begun_ns = perf_counter_ns()
        for token_id in text[start : start + size]:
            path: tuple[int, ...] = ()
            while len(path) < 3 and (given := proposer.continuations(path)):
                path += (given[0].token_id,)
            proposer.follow([token_id])
        times.append(perf_counter_ns() - begun_ns)
    return median(times)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_costs_about_the_same_early_and_late(kind: str, text: str) -> None:
    tokens = TEXTS[text]
    # A prediction is as long as its output.
    early, late = KINDS[kind](tokens[: EARLY + TIMED]), KINDS[kind](tokens)
    for proposer, held in ((early, EARLY), (late, LATE - TIMED)):
        proposer.follow([1])
        proposer.follow(tokens[:held])
    # In proportion to the text it would be 40 times as long; caches explain a few.
    early_ns, late_ns = median_ns(early, tokens[EARLY : EARLY + TIMED]), median_ns(late, tokens[-TIMED:])
    assert late_ns < 10 * early_ns


@pytest.mark.parametrize("kind", KINDS)
def test_paths_that_were_asked_about_are_forgotten_when_more_is_committed(kind: str) -> None:
    tokens = random.Random(4).choices(range(5), k=150)
    asked = KINDS[kind](tokens)
    asked.follow([1])
    for place, token_id in enumerate(tokens):
        for path in ((), (0,), (0, 1), (token_id,), (token_id, 2)):
            asked.continuations(path)
        asked.follow([token_id])
        fresh = KINDS[kind](tokens)
        fresh.follow([1, *tokens[: place + 1]])
        assert list(asked.continuations(())) == list(fresh.continuations(()))
