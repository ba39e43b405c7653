"""`prediction` follows the client's guess, and finds its place again after every kind of edit."""

import random
from collections.abc import Sequence

import pytest

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.prediction import Prediction

PROMPT = (901, 902)
FILE = random.Random(7).choices(range(60), k=300)


def proposer_for(prediction: Sequence[int]) -> Prediction:
    proposer = Prediction(SessionOpen(PROMPT, len(PROMPT), prediction=tuple(prediction)))
    proposer.follow(PROMPT)
    return proposer


def right_guesses(prediction: Sequence[int], output: Sequence[int]) -> int:
    """How many tokens of an output are the likeliest continuation, each after all before it."""
    proposer, right = proposer_for(prediction), 0
    for token_id in output:
        given = proposer.continuations(())
        right += bool(given) and max(given, key=lambda each: each.chance).token_id == token_id
        proposer.follow([token_id])
    return right


EDITS = {
    "nothing": FILE,
    "replaced": [*FILE[:100], 71, 72, 73, *FILE[103:]],
    "put in": [*FILE[:100], 71, 72, 73, 74, *FILE[100:]],
    "left out": [*FILE[:100], *FILE[108:]],
    "at the start": [71, 72, *FILE[2:]],
    "three places": [*FILE[:50], 71, *FILE[51:150], *FILE[155:220], 72, 73, *FILE[220:]],
}


@pytest.mark.parametrize("edit", EDITS)
def test_after_an_edit_it_goes_on_within_a_few_tokens(edit: str) -> None:
    output = EDITS[edit]
    # Of tokens that are nowhere in the prediction none can be right; and each divergence may cost a few more.
    new = sum(token_id >= 70 for token_id in output)
    assert right_guesses(FILE, output) >= len(output) - new - 9


def test_a_prediction_of_another_text_is_given_little_chance() -> None:
    proposer = proposer_for(FILE)
    proposer.follow(range(500, 520))
    assert all(each.chance < 0.3 for each in proposer.continuations(()))


def test_along_a_path_it_goes_on_as_along_the_output() -> None:
    on_path, on_output = proposer_for(FILE), proposer_for(FILE)
    on_path.follow(FILE[:20])
    on_output.follow(FILE[:26])
    path = tuple(FILE[20:26])
    assert on_path.continuations(path) == on_output.continuations(())


def test_at_its_end_and_without_tokens_it_proposes_nothing() -> None:
    whole = proposer_for(FILE)
    whole.follow(FILE)
    assert not [each for each in whole.continuations(()) if each.chance > 0.5]
    assert proposer_for(()).continuations(()) == []


def test_a_session_that_is_opened_again_goes_on_where_it_was() -> None:
    reopened = Prediction(SessionOpen((*PROMPT, *FILE[:40]), len(PROMPT), prediction=tuple(FILE)))
    reopened.follow((*PROMPT, *FILE[:40]))
    assert reopened.continuations(())[0].token_id == FILE[40]
