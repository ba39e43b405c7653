"""What a client may ask for, and the words in which it is told what it may not."""

import asyncio
import math

import pytest
from coordinator.policies import Lockstep, Off, Pipelined

from coordinator.request import Request, read_request
from coordinator.routing import Target
from coordinator.settings import CoordinatorSettings
from coordinator.tokenizer import Tokenizer
from sybil_engine.core.errors import ContextExceeded, InvalidRequest, InvalidSettings
from sybil_engine.core.types import AcceptanceRule, Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.settings import parse
from tests.unit.coordinator.toy import CONTEXT_TOKENS, END_TOKEN, VOCABULARY_SIZE, toy_description, toy_tokenizer

TARGET = Target(toy_description(), Tokenizer(toy_tokenizer().to_str().encode()))
SETTINGS = CoordinatorSettings(speculation=Speculation.LOCKSTEP, window_tokens=3)


def read(message: wire.GenerateRequest) -> Request:
    return asyncio.run(read_request(message, TARGET, SETTINGS))


def ids(*token_ids: int) -> wire.TokenIds:
    return wire.TokenIds(ids=token_ids)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (wire.GenerateRequest(), "set either text or token_ids"),
        (wire.GenerateRequest(text=""), "the prompt is empty"),
        (wire.GenerateRequest(token_ids=ids()), "the prompt has no tokens"),
        (
            wire.GenerateRequest(token_ids=ids(1, 9999, 5000)),
            rf"token_ids\[1\] is 9999; token ids must be below {VOCABULARY_SIZE}",
        ),
        (wire.GenerateRequest(text="a", resume_token_ids=[9999]), r"resume_token_ids\[0\] is 9999"),
        (wire.GenerateRequest(text="a", stop_token_ids=[9999]), r"stop_token_ids\[0\] is 9999"),
        (wire.GenerateRequest(text="a", max_tokens=0), "max_tokens is 0; it must be at least 1"),
        (wire.GenerateRequest(text="a", max_tokens=-3), "max_tokens is -3"),
        (wire.GenerateRequest(text="a", max_tokens=1, resume_token_ids=[1, 2]), "resume_token_ids holds 2 tokens"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(temperature=-1)), "temperature is -1"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(temperature=math.nan)), "not a number"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(temperature=math.inf)), "temperature is inf"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(top_p=0)), "top_p is 0"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(top_p=1.5)), "top_p is 1.5"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(top_p=math.nan)), "top_p is nan"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(top_k=-1)), "top_k is -1"),
        (wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(min_p=1)), "min_p is 1"),
        (wire.GenerateRequest(text="a", stop=["x", ""]), "a stop string is empty"),
        (wire.GenerateRequest(text="a", stop=["x"] * 17), "17 stop strings were given; at most 16"),
        (wire.GenerateRequest(text="a", stop=["x" * 5000]), "5000 characters; at most 1000"),
        (wire.GenerateRequest(text="a", window_tokens=65), "window_tokens is 65; it must be at most 64, or 0"),
        (wire.GenerateRequest(text="a", speculation=99), "choose one of off, lockstep, pipelined, hedged, auto"),  # type: ignore[arg-type]
        (wire.GenerateRequest(text="a", acceptance_rule=99), "acceptance_rule"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_told_what_is_allowed(message: wire.GenerateRequest, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(message)


def test_a_prompt_beyond_the_context_is_told_by_how_much() -> None:
    with pytest.raises(
        ContextExceeded, match=f"{CONTEXT_TOKENS - 1} fit with one to generate: shorten the prompt by 8"
    ):
        read(wire.GenerateRequest(token_ids=ids(*[1] * (CONTEXT_TOKENS + 7))))


def test_a_prompt_and_max_tokens_beyond_the_context_are_told_how_many_fit() -> None:
    with pytest.raises(ContextExceeded, match="after a prompt of 1000 tokens 24 fit the context of 1024"):
        read(wire.GenerateRequest(token_ids=ids(*[1] * 1000), max_tokens=25))
    read(wire.GenerateRequest(token_ids=ids(*[1] * 1000), max_tokens=24))


def test_max_tokens_left_open_is_128_or_what_fits() -> None:
    assert read(wire.GenerateRequest(text="a")).opening.max_position == 1 + 128
    assert read(wire.GenerateRequest(token_ids=ids(*[1] * 1000))).opening.max_position == CONTEXT_TOKENS


def test_a_seed_left_open_is_random_and_a_given_one_is_kept_even_if_0() -> None:
    assert read(wire.GenerateRequest(text="a")).opening.seed != read(wire.GenerateRequest(text="a")).opening.seed
    assert read(wire.GenerateRequest(text="a", seed=0)).opening.seed == 0


def test_the_models_end_tokens_end_the_session_unless_they_are_ignored() -> None:
    assert read(wire.GenerateRequest(text="a", stop_token_ids=[7])).opening.stop_token_ids == {7, END_TOKEN}
    assert read(wire.GenerateRequest(text="a", ignore_end_tokens=True)).opening.stop_token_ids == frozenset()


def test_the_policy_is_the_requests_or_else_the_settings() -> None:
    assert read(wire.GenerateRequest(text="a")).policy == Lockstep(3)
    assert read(wire.GenerateRequest(text="a", window_tokens=5)).policy == Lockstep(5)
    assert read(wire.GenerateRequest(text="a", speculation=types_pb2.SPECULATION_OFF)).policy == Off()
    assert read(wire.GenerateRequest(text="a", speculation=types_pb2.SPECULATION_PIPELINED)).policy == Pipelined(3)


def test_the_longest_window_is_one_limit_for_requests_and_settings() -> None:
    assert read(wire.GenerateRequest(text="a", window_tokens=64)).policy == Lockstep(64)
    assert parse(CoordinatorSettings, ["--window-tokens", "64"], {}).window_tokens == 64
    with pytest.raises(InvalidSettings, match="it must be between 0 and 64"):
        parse(CoordinatorSettings, ["--window-tokens", "65"], {})


def test_the_acceptance_rule_is_passed_through() -> None:
    message = wire.GenerateRequest(text="a", acceptance_rule=types_pb2.ACCEPTANCE_RULE_RATIO_TEST)
    assert read(message).opening.acceptance_rule is AcceptanceRule.RATIO_TEST


def test_resumed_tokens_follow_the_prompt_and_count_towards_max_tokens() -> None:
    request = read(wire.GenerateRequest(token_ids=ids(1, 2), resume_token_ids=[3, 4], max_tokens=2))
    assert request.opening.token_ids == (1, 2, 3, 4)
    assert (request.opening.prompt_tokens, request.opening.max_position) == (2, 4)
    assert request.complete


def test_a_text_that_no_tokenizer_could_fit_into_the_context_is_refused_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TARGET.tokenizer, "encode", None)
    with pytest.raises(ContextExceeded, match="the prompt has 3900000 characters"):
        read(wire.GenerateRequest(text="a" * 3_900_000))


def test_a_long_text_is_encoded_like_a_short_one() -> None:
    with pytest.raises(ContextExceeded, match="the prompt has 5000 tokens"):
        read(wire.GenerateRequest(text="x" * 5000))
