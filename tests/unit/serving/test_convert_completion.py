"""What a client gets survives the wire."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.completion import Delta, Ending, Usage
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import (
    AcceptanceRule,
    CommittedToken,
    DrafterCount,
    FinishReason,
    SamplingParams,
    Speculation,
    TokenOrigin,
)
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.serving.convert_completion import delta_from_wire, delta_to_wire, request_from_wire, request_to_wire

WORD = st.integers(0, 2**32 - 1)
LONG = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=8)

COUNTS = st.lists(st.builds(DrafterCount, TEXT, WORD, WORD, WORD), max_size=3).map(tuple)
USAGE = st.builds(
    Usage,
    **{each.name: LONG if each.name.endswith("_ns") else WORD for each in fields(Usage) if each.name != "drafters"},
    drafters=COUNTS,
)
ENDING = st.builds(
    Ending,
    finish_reason=st.sampled_from(FinishReason),
    seed=LONG,
    speculation=st.sampled_from(Speculation),
    usage=USAGE,
    passes=st.dictionaries(st.sampled_from(Speculation), WORD),
    reason=TEXT,
)
TOKEN = st.builds(
    CommittedToken,
    WORD,
    st.sampled_from(TokenOrigin),
    st.none() | st.floats(max_value=0, width=32, allow_nan=False),
    TEXT,
)
DELTA = st.builds(Delta, text=TEXT, tokens=st.lists(TOKEN, max_size=5).map(tuple), ending=st.none() | ENDING)


@settings(max_examples=60)
@given(delta=DELTA)
def test_a_delta_survives_the_wire(delta: Delta) -> None:
    sent = delta_to_wire(delta).SerializeToString()
    assert delta_from_wire(wire.GenerateResponse.FromString(sent)) == delta


def test_only_the_last_delta_says_how_the_completion_ended() -> None:
    assert not delta_to_wire(Delta("a")).HasField("completion")
    ending = Ending(FinishReason.LENGTH, 0, Speculation.OFF)
    assert delta_to_wire(Delta("a", ending=ending)).HasField("completion")


def test_an_ending_without_a_reason_is_refused() -> None:
    message = wire.GenerateResponse(completion=wire.Completion(speculation=types_pb2.SPECULATION_OFF))
    with pytest.raises(InvalidRequest, match="without a finish reason"):
        delta_from_wire(message)


REQUEST = st.builds(
    GenerationRequest,
    prompt=st.text(min_size=1, max_size=8) | st.lists(WORD, min_size=1, max_size=5).map(tuple),
    sampling=st.builds(SamplingParams, temperature=st.floats(0, 2), top_p=st.floats(0.1, 1)),
    seed=st.none() | LONG,
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    stop=st.lists(st.text(min_size=1, max_size=8), max_size=3).map(tuple),
    stop_token_ids=st.lists(WORD, max_size=3).map(tuple),
    ignore_end_tokens=st.booleans(),
    speculation=st.none() | st.sampled_from(Speculation),
    window_tokens=st.integers(0, 64),
    acceptance_rule=st.sampled_from(AcceptanceRule),
    logprobs=st.booleans(),
    resume_token_ids=st.lists(WORD, max_size=3).map(tuple),
    drafters=st.lists(TEXT, max_size=3).map(tuple),
    prediction=st.text(max_size=8) | st.lists(WORD, min_size=1, max_size=5).map(tuple),
)


@settings(max_examples=60)
@given(request=REQUEST)
def test_a_request_survives_the_wire(request: GenerationRequest) -> None:
    sent = request_to_wire(request).SerializeToString()
    received = request_from_wire(wire.GenerateRequest.FromString(sent))
    prompt = received.prompt if isinstance(received.prompt, str) else tuple(received.prompt)
    prediction = received.prediction if isinstance(received.prediction, str) else tuple(received.prediction)
    lists: dict[str, Any] = {
        name: tuple(getattr(received, name)) for name in ("stop", "stop_token_ids", "resume_token_ids", "drafters")
    }
    assert replace(received, prompt=prompt, prediction=prediction, **lists) == request
