"""Tokens become text, split once by origin."""

from collections.abc import Sequence
from itertools import groupby, pairwise

from hypothesis import given
from hypothesis import strategies as st

from coordinator.pipeline import NewTokens
from coordinator.transcript import Passage, Transcript
from sybil_engine.core.types import CommittedToken, FinishReason, TokenOrigin
from tests.unit.coordinator.toy import END_TOKEN, toy_target

TOKENIZER = toy_target().tokenizer
TEXT = st.text("abé🙂", min_size=1, max_size=20)
STOPS = st.lists(st.text("abé🙂", min_size=1, max_size=3), max_size=2)
DRAFTED, TARGET = TokenOrigin.DRAFTED, TokenOrigin.TARGET


def transcript(*stops: str) -> Transcript:
    return Transcript(TOKENIZER.detokenizer(TOKENIZER.encode("prompt")), stops, frozenset([END_TOKEN]))


def new(token_ids: Sequence[int], reason: FinishReason | None = None, origins: Sequence[TokenOrigin] = ()) -> NewTokens:
    origins = origins or (TARGET,) * len(token_ids)
    tokens = (CommittedToken(*pair, logprob=-0.5) for pair in zip(token_ids, origins, strict=True))
    return NewTokens(tuple(tokens), reason)


def passages(following: Transcript, pieces: Sequence[NewTokens]) -> list[Passage]:
    """What a client gets of a session, up to its end."""
    taken: list[Passage] = []
    for piece in pieces:
        taken += following.take(piece)
        if taken[-1].finish_reason:
            break
    return taken


def joined(taken: Sequence[Passage]) -> tuple[str, tuple[CommittedToken, ...], FinishReason | None]:
    return (
        "".join(each.text for each in taken),
        tuple(token for each in taken for token in each.tokens),
        taken[-1].finish_reason if taken else None,
    )


def ids(taken: Sequence[Passage]) -> tuple[int, ...]:
    return tuple(token.token_id for token in joined(taken)[1])


def session(token_ids: Sequence[int], cuts: Sequence[int], origins: Sequence[TokenOrigin] = ()) -> list[NewTokens]:
    """A session that uses up its tokens, cut into commits."""
    return [
        new(token_ids[start:end], FinishReason.LENGTH if end == len(token_ids) else None, origins[start:end])
        for start, end in pairwise(cuts)
    ]


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    return sorted(draw(st.sets(st.integers(0, length))) | {0, length})


@given(TEXT, STOPS, st.data())
def test_a_completion_is_the_same_however_its_commits_are_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    token_ids = TOKENIZER.encode(text)
    whole = passages(transcript(*stops), session(token_ids, [0, len(token_ids)]))
    pieces = session(token_ids, data.draw(cuts(len(token_ids))))
    assert joined(passages(transcript(*stops), pieces)) == joined(whole)


@given(TEXT, STOPS, st.data())
def test_a_completion_is_the_same_wherever_its_tokens_come_from(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    token_ids = TOKENIZER.encode(text)
    origins = data.draw(st.lists(st.sampled_from(TokenOrigin), min_size=len(token_ids), max_size=len(token_ids)))
    pieces = session(token_ids, data.draw(cuts(len(token_ids))), origins)
    taken = passages(transcript(*stops), pieces)
    whole = passages(transcript(*stops), session(token_ids, [0, len(token_ids)]))
    assert (joined(taken)[0], ids(taken), joined(taken)[2]) == (joined(whole)[0], ids(whole), joined(whole)[2])
    assert [token.origin for token in joined(taken)[1]] == origins[: len(ids(taken))]


@given(st.lists(st.sampled_from(TokenOrigin), max_size=12), st.none() | st.sampled_from(FinishReason))
def test_there_is_one_passage_for_each_run_of_one_origin_and_only_the_last_one_ends(
    origins: list[TokenOrigin], reason: FinishReason | None
) -> None:
    taken = list(transcript().take(new(TOKENIZER.encode("x" * len(origins)), reason, origins)))
    assert [{token.origin for token in each.tokens} for each in taken] == (
        [{origin} for origin, _ in groupby(origins)] or [set()]
    )
    assert [each.finish_reason for each in taken] == [None] * (len(taken) - 1) + [reason]


@given(TEXT, STOPS, st.data())
def test_a_resumed_completion_goes_on_where_the_broken_call_stopped(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    token_ids = TOKENIZER.encode(text)
    cut = data.draw(st.integers(0, len(token_ids) - 1))
    whole = passages(transcript(*stops), session(token_ids, [0, len(token_ids)]))
    broken, resumed = transcript(*stops), transcript(*stops)
    first = list(broken.take(new(token_ids[:cut])))
    ended = resumed.resume(token_ids[:cut])
    rest = [ended] if ended else passages(resumed, session(token_ids, [cut, len(token_ids)]))
    assert joined(first)[0] + joined(rest)[0] == joined(whole)[0]
    assert ids(first) + ids(rest) == ids(whole)
    assert joined(rest)[2] == joined(whole)[2]


def test_tokens_are_reported_up_to_the_one_that_completes_the_stop_string() -> None:
    (passage,) = transcript("llo").take(new(TOKENIZER.encode("hello world")))
    assert (passage.text, passage.tokens) == ("he", new(TOKENIZER.encode("hello")).tokens)
    assert passage.finish_reason is FinishReason.STOP


def test_nothing_is_said_after_the_passage_that_completes_a_stop_string() -> None:
    text = "hello world"
    origins = (DRAFTED,) * 3 + (TARGET,) * 3 + (DRAFTED,) * 5
    taken = list(transcript("llo").take(new(TOKENIZER.encode(text), FinishReason.LENGTH, origins)))
    assert [(each.text, len(each.tokens), each.finish_reason) for each in taken] == [
        ("he", 3, None),
        ("", 2, FinishReason.STOP),
    ]


def test_a_stop_token_ends_the_text_and_what_was_held_back_is_sent() -> None:
    (passage,) = transcript("abc").take(new([*TOKENIZER.encode("xab"), END_TOKEN], FinishReason.STOP))
    assert (passage.text, len(passage.tokens)) == ("xab", 4)


def test_tokens_are_sent_before_their_text_is_certain() -> None:
    half = new(TOKENIZER.encode("é")[:1])
    assert list(transcript().take(half)) == [Passage("", half.tokens)]


def test_a_last_commit_without_new_tokens_releases_the_text_that_was_held_back() -> None:
    following = transcript("abc")
    assert joined(list(following.take(new(TOKENIZER.encode("xab")))))[0] == "x"
    assert list(following.take(new([], FinishReason.LENGTH))) == [Passage("ab", (), FinishReason.LENGTH)]
