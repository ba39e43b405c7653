"""What may be asked for, whatever the interface, and the words in which one is told what may not."""

import asyncio
from typing import Any

import pytest

from coordinator.request import CheckedRequest, Defaults, check
from coordinator.settings import CoordinatorSettings
from sybil_engine.core.errors import ContextExceeded, InvalidRequest, InvalidSettings
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import AcceptanceRule, SamplingParams, Speculation
from sybil_engine.settings import parse
from tests.unit.coordinator.toy import CONTEXT_TOKENS, END_TOKEN, VOCABULARY_SIZE, toy_target

TARGET = toy_target()
DEFAULTS = Defaults(speculation=Speculation.LOCKSTEP, window_tokens=3, max_priority=5)


def checked(prompt: Any = "a", **asked: Any) -> CheckedRequest:
    request = GenerationRequest(prompt, **asked)
    return asyncio.run(check(request, TARGET.description, TARGET.tokenizer, DEFAULTS))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": ()}, "the prompt has no tokens"),
        ({"prompt": (1, 9999, 5000)}, rf"token_ids\[1\] is 9999; token ids must be below {VOCABULARY_SIZE}"),
        ({"prompt": (1, -1)}, r"token_ids\[1\] is -1"),
        ({"resume_token_ids": [9999]}, r"resume_token_ids\[0\] is 9999"),
        ({"stop_token_ids": [9999]}, r"stop_token_ids\[0\] is 9999"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"max_tokens": -3}, "max_tokens is -3"),
        ({"max_tokens": 1, "resume_token_ids": [1, 2]}, "resume_token_ids holds 2 tokens"),
        ({"seed": -1}, "seed is -1; it must fit 64 bits"),
        ({"seed": 2**64}, "it must fit 64 bits"),
        ({"priority": 6}, "priority is 6; this coordinator allows at most 5"),
        ({"priority": 2**31}, "priority is 2147483648; it must fit 32 bits"),
        ({"stop": ["x", ""]}, "a stop string is empty"),
        ({"stop": ["x"] * 17}, "17 stop strings were given; at most 16"),
        ({"stop": ["x" * 5000]}, "5000 characters; at most 1000"),
        ({"window_tokens": 65}, "window_tokens is 65; it must be between 1 and 64, or 0"),
        ({"window_tokens": -1}, "window_tokens is -1; it must be between 1 and 64, or 0"),
    ],
)
def test_bad_input_is_told_what_is_allowed(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        checked(**asked)


def test_a_prompt_beyond_the_context_is_told_by_how_much() -> None:
    with pytest.raises(
        ContextExceeded, match=f"{CONTEXT_TOKENS - 1} fit with one to generate: shorten the prompt by 8"
    ):
        checked((1,) * (CONTEXT_TOKENS + 7))


@pytest.mark.parametrize("name", ["prompt", "resume_token_ids", "stop_token_ids"])
def test_a_list_that_is_too_long_is_refused_before_anyone_looks_at_its_values(name: str) -> None:
    class Unread(tuple[int, ...]):
        def __iter__(self) -> Any:
            raise AssertionError("a value was read")

    with pytest.raises(InvalidRequest, match=r"shorten the prompt|and no more|at most 1024"):
        checked(**{name: Unread((1,) * 4_000)})


def test_a_prompt_and_max_tokens_beyond_the_context_are_told_how_many_fit() -> None:
    with pytest.raises(ContextExceeded, match="after a prompt of 1000 tokens 24 fit the context of 1024"):
        checked((1,) * 1000, max_tokens=25)
    checked((1,) * 1000, max_tokens=24)


def test_max_tokens_left_open_is_128_or_what_fits() -> None:
    assert checked().opening.max_position == 1 + 128
    assert checked((1,) * 1000).opening.max_position == CONTEXT_TOKENS


def test_a_seed_left_open_is_random_and_a_given_one_is_kept_even_if_0() -> None:
    assert checked().opening.seed != checked().opening.seed
    assert checked(seed=0).opening.seed == 0


def test_the_models_end_tokens_end_the_session_unless_they_are_ignored() -> None:
    assert checked(stop_token_ids=[7]).opening.stop_token_ids == {7, END_TOKEN}
    assert checked(ignore_end_tokens=True).opening.stop_token_ids == frozenset()


def test_speculation_and_window_are_the_requests_or_else_the_default() -> None:
    for asked, speculation, window_tokens in (
        ({}, Speculation.LOCKSTEP, 3),
        ({"window_tokens": 5}, Speculation.LOCKSTEP, 5),
        ({"speculation": Speculation.OFF}, Speculation.OFF, 3),
        ({"speculation": Speculation.PIPELINED}, Speculation.PIPELINED, 3),
        ({"speculation": Speculation.AUTO, "window_tokens": 7}, Speculation.AUTO, 7),
    ):
        request = checked(**asked)
        assert (request.speculation, request.opening.window_tokens) == (speculation, window_tokens)


def test_the_longest_window_is_one_limit_for_requests_and_settings() -> None:
    assert checked(window_tokens=64).opening.window_tokens == 64
    assert parse(CoordinatorSettings, ["--window-tokens", "64"], {}).window_tokens == 64
    with pytest.raises(InvalidSettings, match="it must be between 0 and 64"):
        parse(CoordinatorSettings, ["--window-tokens", "65"], {})


def test_what_the_services_read_is_passed_through() -> None:
    sampling = SamplingParams(0.8, 5, 0.9, 0.1)
    opening = checked(acceptance_rule=AcceptanceRule.RATIO_TEST, logprobs=True, sampling=sampling).opening
    assert opening.acceptance_rule is AcceptanceRule.RATIO_TEST
    assert (opening.logprobs, opening.sampling) == (True, sampling)


def test_resumed_tokens_follow_the_prompt_and_count_towards_max_tokens() -> None:
    request = checked((1, 2), resume_token_ids=[3, 4], max_tokens=2)
    assert request.opening.token_ids == (1, 2, 3, 4)
    assert (request.opening.prompt_tokens, request.opening.max_position) == (2, 4)
    assert (request.prompt, request.resumed) == ((1, 2), (3, 4))
    assert request.complete


def test_a_text_that_no_tokenizer_could_fit_into_the_context_is_refused_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TARGET.tokenizer, "encode", None)
    with pytest.raises(ContextExceeded, match="the prompt has 3900000 characters"):
        checked("a" * 3_900_000)


def test_a_long_text_is_encoded_like_a_short_one() -> None:
    with pytest.raises(ContextExceeded, match="the prompt has 5000 tokens"):
        checked("x" * 5000)
