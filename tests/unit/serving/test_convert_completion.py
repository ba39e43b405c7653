"""What a client gets survives the wire."""

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.completion import Delta, Ending, Usage
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import CommittedToken, FinishReason, Speculation, TokenOrigin
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.serving.convert_completion import delta_from_wire, delta_to_wire

WORD = st.integers(0, 2**32 - 1)
LONG = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=8)

USAGE = st.builds(Usage, **{each.name: LONG if each.name.endswith("_ns") else WORD for each in fields(Usage)})
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
    CommittedToken, WORD, st.sampled_from(TokenOrigin), st.none() | st.floats(max_value=0, width=32, allow_nan=False)
)
DELTA = st.builds(Delta, text=TEXT, tokens=st.lists(TOKEN, max_size=5).map(tuple), ending=st.none() | ENDING)


@settings(max_examples=60)
@given(delta=DELTA)
def test_a_delta_survives_the_wire(delta: Delta) -> None:
    sent = delta_to_wire(delta).SerializeToString()
    assert delta_from_wire(wire.GenerateResponse.FromString(sent)) == delta


def test_every_count_of_a_usage_has_a_field_of_its_own_on_the_wire() -> None:
    assert {each.name for each in fields(Usage)} == {each.name for each in wire.Usage.DESCRIPTOR.fields}


def test_only_the_last_delta_says_how_the_completion_ended() -> None:
    assert not delta_to_wire(Delta("a")).HasField("completion")
    ending = Ending(FinishReason.LENGTH, 0, Speculation.OFF)
    assert delta_to_wire(Delta("a", ending=ending)).HasField("completion")


def test_an_ending_without_a_reason_is_refused() -> None:
    message = wire.GenerateResponse(completion=wire.Completion(speculation=types_pb2.SPECULATION_OFF))
    with pytest.raises(InvalidRequest, match="without a finish reason"):
        delta_from_wire(message)
