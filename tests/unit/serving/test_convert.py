"""Frozen values survive the wire, and what a message cannot mean is refused."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.errors import InvalidRequest, PairMismatch
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import (
    AcceptanceRule,
    Block,
    BlockOrigin,
    Distribution,
    FinishReason,
    ModelDescription,
    PassTimings,
    SamplingParams,
    Speculation,
    TokenOrigin,
)
from sybil_engine.rpc.v1 import types_pb2 as wire
from sybil_engine.serving import convert

WORD = st.integers(0, 2**32 - 1)
LONG = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=8)
IDS = st.lists(WORD, max_size=5).map(tuple)
FLOAT32 = st.floats(width=32, allow_nan=False)

SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, allow_infinity=False),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1, exclude_max=True),
)
DISTRIBUTION = st.lists(st.tuples(WORD, st.floats(0, 1, width=32)), min_size=1, max_size=5).map(
    lambda pairs: Distribution(*(tuple(side) for side in zip(*pairs, strict=True)))
)
BLOCK = IDS.filter(bool).flatmap(
    lambda token_ids: st.builds(
        Block,
        position=WORD,
        prefix_fingerprint=LONG,
        token_ids=st.just(token_ids),
        origin=st.sampled_from(BlockOrigin),
        distributions=st.just(()) | st.tuples(*[DISTRIBUTION for _ in token_ids]),
        draft_ns=LONG,
        known_tokens=WORD,
        chances=st.just(()) | st.tuples(*[st.floats(0, 1, width=32) for _ in token_ids]),
    )
)
COMMIT = st.builds(
    Commit,
    position=WORD,
    prefix_fingerprint=LONG,
    token_ids=IDS,
    origins=st.lists(st.sampled_from(TokenOrigin), max_size=5).map(tuple),
    logprobs=st.lists(FLOAT32, max_size=5).map(tuple),
    draft_budget=WORD,
    window_tokens=WORD,
    accepted_tokens=WORD,
    timings=st.builds(PassTimings, LONG, LONG, LONG, LONG),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    draft_rows=st.integers(1, 2**32 - 1),
    speculation=st.none() | st.sampled_from(Speculation),
    reason=TEXT,
    push_tokens=st.integers(1, 2**32 - 1),
    least_chance=st.floats(0, 1, width=32),
)


@st.composite
def openings(draw: st.DrawFn) -> SessionOpen:
    token_ids = draw(st.lists(WORD, min_size=1, max_size=5).map(tuple))
    return SessionOpen(
        token_ids=token_ids,
        prompt_tokens=draw(st.integers(1, len(token_ids))),
        sampling=draw(SAMPLING),
        seed=draw(LONG),
        stop_token_ids=draw(st.frozensets(WORD, max_size=3)),
        max_position=draw(WORD),
        speculation=draw(st.sampled_from(Speculation)),
        window_tokens=draw(WORD),
        acceptance_rule=draw(st.sampled_from(AcceptanceRule)),
        draft_budget=draw(WORD),
        logprobs=draw(st.booleans()),
        session_id=draw(TEXT),
        draft_rows=draw(st.integers(1, 2**32 - 1)),
        push_tokens=draw(st.integers(1, 2**32 - 1)),
        shares_processor=draw(st.booleans()),
    )


DESCRIPTION = st.builds(
    ModelDescription,
    model_id=TEXT,
    architecture=TEXT,
    parameters=LONG,
    vocabulary_size=WORD,
    tokenizer_fingerprint=TEXT,
    tokenizer_parts=st.dictionaries(TEXT, TEXT, max_size=3),
    end_token_ids=IDS,
    begin_token_id=st.none() | WORD,
    context_tokens=WORD,
    dtype=TEXT,
    device=TEXT,
    max_sessions=WORD,
    numerics=TEXT,
    row_class=IDS,
    ready=st.booleans(),
    processors=st.lists(TEXT, max_size=3).map(tuple),
    threads=st.integers(1, 2**32 - 1),
)


@settings(max_examples=40)
@given(params=SAMPLING)
def test_sampling_parameters_survive_the_wire(params: SamplingParams) -> None:
    sent = convert.sampling_to_wire(params).SerializeToString()
    assert convert.sampling_from_wire(wire.SamplingParams.FromString(sent)) == params


@settings(max_examples=40)
@given(opening=openings())
def test_an_opening_survives_the_wire(opening: SessionOpen) -> None:
    sent = convert.open_to_wire(opening).SerializeToString()
    assert convert.open_from_wire(wire.SessionOpen.FromString(sent)) == opening


@settings(max_examples=40)
@given(block=BLOCK)
def test_a_block_survives_the_wire(block: Block) -> None:
    sent = convert.block_to_wire(block).SerializeToString()
    assert convert.block_from_wire(wire.Block.FromString(sent)) == block


@settings(max_examples=40)
@given(commit=COMMIT)
def test_a_commit_survives_the_wire(commit: Commit) -> None:
    sent = convert.commit_to_wire(commit).SerializeToString()
    assert convert.commit_from_wire(wire.Commit.FromString(sent)) == commit


@settings(max_examples=40)
@given(description=DESCRIPTION)
def test_a_description_survives_the_wire(description: ModelDescription) -> None:
    sent = convert.description_to_wire(description).SerializeToString()
    assert convert.description_from_wire(wire.ModelDescription.FromString(sent)) == description


def test_every_value_of_every_enum_has_a_place_on_the_wire() -> None:
    for speculation in Speculation:
        value = convert.speculation_to_wire(speculation)
        assert convert.speculation_from_wire(value, Speculation.OFF) is speculation
    for rule in AcceptanceRule:
        assert convert.acceptance_rule_from_wire(convert.acceptance_rule_to_wire(rule)) is rule
    assert convert.token_origins_from_wire(convert.token_origins_to_wire(TokenOrigin)) == tuple(TokenOrigin)


@pytest.mark.parametrize("default", Speculation)
def test_speculation_that_is_not_said_is_the_default(default: Speculation) -> None:
    assert convert.speculation_from_wire(wire.SPECULATION_UNSPECIFIED, default) is default


def test_a_top_p_that_is_not_sent_means_1_and_an_explicit_0_is_refused() -> None:
    assert convert.sampling_from_wire(wire.SamplingParams()) == SamplingParams(top_p=1.0)
    with pytest.raises(InvalidRequest, match=r"top_p is 0\.0"):
        convert.sampling_from_wire(wire.SamplingParams(top_p=0.0))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(wire.SamplingParams(temperature=float("nan")), id="temperature NaN"),
        pytest.param(wire.SamplingParams(temperature=-1), id="temperature negative"),
        pytest.param(wire.SamplingParams(top_k=-1), id="top_k negative"),
        pytest.param(wire.SamplingParams(top_p=float("nan")), id="top_p NaN"),
        pytest.param(wire.SamplingParams(min_p=1), id="min_p 1"),
    ],
)
def test_sampling_parameters_out_of_range_are_refused(message: wire.SamplingParams) -> None:
    with pytest.raises(InvalidRequest):
        convert.sampling_from_wire(message)
    with pytest.raises(InvalidRequest):
        convert.open_from_wire(wire.SessionOpen(token_ids=[1], prompt_tokens=1, sampling=message))


def with_enum(message_bytes: bytes, field_number: int, value: int) -> bytes:
    """The message with an enum field set to a value that a newer version may know."""
    return message_bytes + bytes([field_number << 3, value])


SOME_OPEN = wire.SessionOpen(token_ids=[1], prompt_tokens=1).SerializeToString()


@pytest.mark.parametrize(
    ("read", "field"),
    [
        *[
            pytest.param(
                lambda value=value: convert.open_from_wire(wire.SessionOpen.FromString(with_enum(SOME_OPEN, 8, value))),
                "speculation",
                id=f"speculation {value}",
            )
            for value in (6, 77)
        ],
        pytest.param(
            lambda: convert.open_from_wire(wire.SessionOpen.FromString(with_enum(SOME_OPEN, 10, 77))),
            "acceptance_rule",
            id="acceptance_rule",
        ),
        *[
            pytest.param(
                lambda value=value: convert.block_from_wire(wire.Block.FromString(with_enum(b"", 4, value))),
                "origin",
                id=f"block origin {value}",
            )
            for value in (wire.BLOCK_ORIGIN_UNSPECIFIED, 77)
        ],
        *[
            pytest.param(
                lambda value=value: convert.commit_from_wire(wire.Commit.FromString(with_enum(b"", 4, value))),
                "origins",
                id=f"token origin {value}",
            )
            for value in (wire.TOKEN_ORIGIN_UNSPECIFIED, 77)
        ],
        pytest.param(
            lambda: convert.commit_from_wire(wire.Commit.FromString(with_enum(b"", 10, 77))),
            "finish_reason",
            id="finish_reason",
        ),
    ],
)
def test_an_enum_value_that_this_version_does_not_serve_is_refused_by_name(
    read: Callable[[], object], field: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"{field} has the value"):
        read()


@pytest.mark.parametrize("chances", [[0.5], [0.5, 1.5], [-0.1, 0.5], [float("nan"), 0.5]])
def test_chances_that_are_none_or_too_few_are_refused(chances: list[float]) -> None:
    message = wire.Block(token_ids=[1, 2], origin=wire.BLOCK_ORIGIN_TRUNK, chances=chances)
    with pytest.raises(InvalidRequest, match="chance"):
        convert.block_from_wire(message)


def test_a_block_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="a block without tokens; send at least one"):
        convert.block_from_wire(wire.Block(origin=wire.BLOCK_ORIGIN_TRUNK))


@pytest.mark.parametrize("least_chance", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_least_chance_that_is_no_probability_is_refused(least_chance: float) -> None:
    with pytest.raises(InvalidRequest, match="least_chance"):
        convert.commit_from_wire(wire.Commit(least_chance=least_chance))


def test_a_block_has_one_distribution_a_token_or_none() -> None:
    message = wire.Block(token_ids=[1, 2], origin=wire.BLOCK_ORIGIN_TRUNK, distributions=[wire.Distribution()])
    with pytest.raises(InvalidRequest, match="2 tokens has 1 distributions"):
        convert.block_from_wire(message)


def test_an_opening_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        convert.open_from_wire(wire.SessionOpen())


def test_another_protocol_version_is_a_mismatch_that_names_both() -> None:
    message = wire.ModelDescription(model_id="llama", protocol_version=99)
    with pytest.raises(PairMismatch, match="llama is served with protocol version 99"):
        convert.description_from_wire(message)


def test_fingerprints_take_eight_bytes_whatever_their_value() -> None:
    assert struct.pack("<Q", 5) in convert.block_to_wire(Block(0, 5, (1,))).SerializeToString()


@pytest.mark.parametrize(
    ("token_ids", "probabilities", "complaint"),
    [
        ([1, 2], [1.0], "2 token ids and 1 probabilities"),
        ([], [], "at least one"),
        ([1, 2], [-0.5, 1.0], "outside 0 to 1"),
        ([1], [float("nan")], "outside 0 to 1"),
        ([1], [float("inf")], "outside 0 to 1"),
    ],
)
def test_a_distribution_that_is_none_is_refused(
    token_ids: list[int], probabilities: list[float], complaint: str
) -> None:
    distribution = wire.Distribution(token_ids=token_ids, probabilities=probabilities)
    message = wire.Block(token_ids=[1], origin=wire.BLOCK_ORIGIN_TRUNK, distributions=[distribution])
    with pytest.raises(InvalidRequest, match=complaint):
        convert.block_from_wire(message)
