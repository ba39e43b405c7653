from collections.abc import Sequence
from itertools import pairwise

from coordinator.completion import Completion, Delta
from hypothesis import given
from hypothesis import strategies as st

from coordinator.pipeline import Progress
from coordinator.tokenizer import Tokenizer
from sybil_engine.core.types import FinishReason, TokenOrigin
from tests.unit.coordinator.toy import END_TOKEN, toy_tokenizer

TOKENIZER = Tokenizer(toy_tokenizer().to_str().encode())


def completion(*stops: str) -> Completion:
    return Completion(TOKENIZER.detokenizer(TOKENIZER.encode("prompt")), stops, frozenset([END_TOKEN]))


def progress(token_ids: Sequence[int], reason: FinishReason | None = None) -> Progress:
    return Progress(tuple(token_ids), (TokenOrigin.TARGET,) * len(token_ids), (), reason)


def taken(following: Completion, pieces: Sequence[Sequence[int]]) -> Delta:
    """All that a client gets of a session that uses up its tokens."""
    deltas = []
    for number, piece in enumerate(pieces, start=1):
        deltas.append(following.take(progress(piece, FinishReason.LENGTH if number == len(pieces) else None)))
        if deltas[-1].finish_reason:
            break
    return Delta.joined(deltas)


@given(st.text("abé🙂", min_size=1, max_size=20), st.data())
def test_a_completion_is_the_same_however_its_commits_are_cut(text: str, data: st.DataObject) -> None:
    stops = data.draw(st.lists(st.text("abé🙂", min_size=1, max_size=3), max_size=2))
    token_ids = TOKENIZER.encode(text)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(token_ids)))) | {0, len(token_ids)})
    pieces = [token_ids[start:end] for start, end in pairwise(cuts)]
    assert taken(completion(*stops), pieces) == taken(completion(*stops), [token_ids])


@given(st.text("abé🙂", min_size=1, max_size=20), st.data())
def test_a_resumed_completion_goes_on_where_the_broken_call_stopped(text: str, data: st.DataObject) -> None:
    stops = data.draw(st.lists(st.text("abé🙂", min_size=1, max_size=3), max_size=2))
    token_ids = TOKENIZER.encode(text)
    cut = data.draw(st.integers(0, len(token_ids) - 1))
    whole = taken(completion(*stops), [token_ids])
    broken, resumed = completion(*stops), completion(*stops)
    first = broken.take(progress(token_ids[:cut]))
    rest = resumed.resume(token_ids[:cut]) or taken(resumed, [token_ids[cut:]])
    assert first.text + rest.text == whole.text
    assert first.token_ids + rest.token_ids == whole.token_ids
    assert rest.finish_reason == whole.finish_reason


def test_tokens_are_reported_up_to_the_one_that_completes_the_stop_string() -> None:
    delta = completion("llo").take(progress(TOKENIZER.encode("hello world")))
    assert (delta.text, delta.token_ids) == ("he", TOKENIZER.encode("hello"))
    assert delta.finish_reason is FinishReason.STOP
    assert len(delta.origins) == 5


def test_a_stop_token_ends_the_text_and_what_was_held_back_is_sent() -> None:
    delta = completion("abc").take(progress([*TOKENIZER.encode("xab"), END_TOKEN], FinishReason.STOP))
    assert (delta.text, len(delta.token_ids)) == ("xab", 4)


def test_tokens_are_sent_before_their_text_is_certain() -> None:
    half = TOKENIZER.encode("é")[:1]
    assert completion().take(progress(half)) == Delta("", half, (TokenOrigin.TARGET,))
