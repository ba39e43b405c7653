"""Frozen values survive the wire, and what a message cannot mean is refused."""

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.completion import Ending, Usage
from sybil_engine.core.errors import InvalidRequest, PairMismatch
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.session import Advance, Commit, SessionOpen
from sybil_engine.core.types import (
    CUT_TOKENS,
    MOST_MESSAGE_TOKENS,
    AcceptanceRule,
    Block,
    BlockOrigin,
    CommittedToken,
    Distribution,
    FinishReason,
    ModelDescription,
    PassTimings,
    SamplingParams,
    Speculation,
    TokenOrigin,
)
from sybil_engine.rpc.v1 import generation_service_pb2 as generation_wire
from sybil_engine.rpc.v1 import types_pb2 as wire
from sybil_engine.serving import convert
from sybil_engine.serving.copying import to_message, to_value

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
PLAN = st.builds(
    DraftPlan,
    speculation=st.sampled_from(Speculation),
    budget=WORD,
    rows=st.integers(1, 2**32 - 1),
    hold_until=WORD,
    least_chance=st.floats(0, 1, width=32),
)
TOKEN = st.builds(CommittedToken, WORD, st.sampled_from(TokenOrigin), st.none() | FLOAT32)
COMMIT = st.builds(
    Commit,
    position=WORD,
    prefix_fingerprint=LONG,
    tokens=st.lists(TOKEN, max_size=5).map(tuple),
    judged=WORD,
    accepted=WORD,
    plan=PLAN,
    timings=st.builds(PassTimings, LONG, LONG, LONG, LONG),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    reason=TEXT,
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
        plan=draw(PLAN),
        window_tokens=draw(WORD),
        acceptance_rule=draw(st.sampled_from(AcceptanceRule)),
        logprobs=draw(st.booleans()),
        session_id=draw(TEXT),
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
    kernels=TEXT,
)


@settings(max_examples=40)
@given(params=SAMPLING)
def test_sampling_parameters_survive_the_wire(params: SamplingParams) -> None:
    sent = to_message(wire.SamplingParams, params).SerializeToString()
    assert to_value(SamplingParams, wire.SamplingParams.FromString(sent)) == params


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
@given(commit=COMMIT)
def test_a_drafter_reads_of_a_commit_where_it_stands_its_tokens_and_the_plan(commit: Commit) -> None:
    sent = convert.advance_to_wire(commit.advance).SerializeToString()
    advance = convert.advance_from_wire(wire.Advance.FromString(sent))
    assert advance == commit.advance
    assert (advance.position, advance.prefix_fingerprint) == (commit.position, commit.prefix_fingerprint)
    assert advance.token_ids == tuple(token.token_id for token in commit.tokens)
    assert advance.plan == commit.plan


@settings(max_examples=40)
@given(plan=PLAN)
def test_a_plan_survives_the_wire(plan: DraftPlan) -> None:
    sent = convert.plan_to_wire(plan).SerializeToString()
    assert convert.plan_from_wire(wire.DraftPlan.FromString(sent)) == plan


@settings(max_examples=40)
@given(token=TOKEN)
def test_a_committed_token_survives_the_wire(token: CommittedToken) -> None:
    sent = convert.token_to_wire(token).SerializeToString()
    assert convert.token_from_wire(wire.CommittedToken.FromString(sent)) == token


@pytest.mark.parametrize("logprob", [None, 0.0])
def test_a_log_probability_of_0_is_not_one_that_was_not_asked_for(logprob: float | None) -> None:
    sent = convert.token_to_wire(CommittedToken(5, TokenOrigin.TARGET, logprob))
    assert sent.HasField("logprob") == (logprob is not None)
    assert convert.token_from_wire(sent).logprob == logprob


@settings(max_examples=40)
@given(description=DESCRIPTION)
def test_a_description_survives_the_wire(description: ModelDescription) -> None:
    sent = convert.description_to_wire(description).SerializeToString()
    assert convert.description_from_wire(wire.ModelDescription.FromString(sent)) == description


def test_every_value_of_every_enum_has_a_place_on_the_wire() -> None:
    for speculation in Speculation:
        assert convert.speculation_from_wire(convert.ENUM_TO_WIRE[speculation]) is speculation
    for rule in AcceptanceRule:
        assert convert.acceptance_rule_from_wire(convert.ENUM_TO_WIRE[rule]) is rule
    for origin in TokenOrigin:
        assert convert.token_from_wire(convert.token_to_wire(CommittedToken(1, origin))).origin is origin
    for reason in (None, *FinishReason):
        assert convert.finish_reason_from_wire(convert.ENUM_TO_WIRE[reason]) is reason


def test_every_value_of_every_enum_on_the_wire_has_a_member() -> None:
    for read, wire_enum in (
        (convert.speculation_from_wire, wire.Speculation),
        (convert.acceptance_rule_from_wire, wire.AcceptanceRule),
        (convert.finish_reason_from_wire, wire.FinishReason),
    ):
        for number in wire_enum.values():
            read(number)
    assert len(wire.BlockOrigin.values()) == len(BlockOrigin) + 1
    assert len(wire.TokenOrigin.values()) == len(TokenOrigin) + 1


@pytest.mark.parametrize(
    ("message", "value", "only_on_the_wire", "only_in_the_value"),
    [
        (wire.SamplingParams, SamplingParams, set(), set()),
        (wire.DraftPlan, DraftPlan, set(), set()),
        (wire.CommittedToken, CommittedToken, set(), set()),
        (wire.Distribution, Distribution, set(), set()),
        (wire.Block, Block, set(), set()),
        (wire.PassTimings, PassTimings, set(), set()),
        (wire.Commit, Commit, set(), set()),
        (wire.Advance, Advance, set(), set()),
        (wire.SessionOpen, SessionOpen, set(), set()),
        (wire.ModelDescription, ModelDescription, {"protocol_version"}, set()),
        (generation_wire.Usage, Usage, set(), set()),
        (generation_wire.Completion, Ending, set(), set()),
        (generation_wire.GenerateRequest, GenerationRequest, {"text", "token_ids", "prediction_token_ids"}, {"prompt"}),
    ],
)
def test_a_value_and_its_message_have_the_same_fields(
    message: type[Message], value: type[Any], only_on_the_wire: set[str], only_in_the_value: set[str]
) -> None:
    on_the_wire, in_the_value = set(message.DESCRIPTOR.fields_by_name), {each.name for each in fields(value)}
    assert on_the_wire - in_the_value == only_on_the_wire
    assert in_the_value - on_the_wire == only_in_the_value


def test_speculation_that_is_not_said_is_off() -> None:
    assert convert.speculation_from_wire(wire.SPECULATION_UNSPECIFIED) is Speculation.OFF


def test_a_plan_that_is_not_sent_drafts_nothing_and_no_rows_count_as_one() -> None:
    plan = convert.open_from_wire(wire.SessionOpen(token_ids=[1], prompt_tokens=1)).plan
    assert (plan.speculation, plan.budget, plan.rows) == (NO_DRAFTING.speculation, 0, 1)
    assert convert.plan_from_wire(wire.DraftPlan(speculation=wire.SPECULATION_HEDGED, budget=4)).rows == 1


def test_a_top_p_that_is_not_sent_means_1_and_an_explicit_0_is_refused() -> None:
    assert to_value(SamplingParams, wire.SamplingParams()) == SamplingParams(top_p=1.0)
    with pytest.raises(InvalidRequest, match=r"top_p is 0\.0"):
        to_value(SamplingParams, wire.SamplingParams(top_p=0.0))


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
        to_value(SamplingParams, message)
    with pytest.raises(InvalidRequest):
        convert.open_from_wire(wire.SessionOpen(token_ids=[1], prompt_tokens=1, sampling=message))


def with_enum(message_bytes: bytes, field_number: int, value: int) -> bytes:
    """The message with an enum field set to a value that a newer version may know."""
    return message_bytes + bytes([field_number << 3, value])


SOME_OPEN = wire.SessionOpen(token_ids=[1], prompt_tokens=1).SerializeToString()


def with_plan(value: int) -> wire.DraftPlan:
    """A plan with a speculation that a newer version may know."""
    return wire.DraftPlan.FromString(with_enum(b"", 1, value))


@pytest.mark.parametrize(
    ("read", "field"),
    [
        *[
            pytest.param(
                lambda value=value: convert.open_from_wire(
                    wire.SessionOpen(token_ids=[1], prompt_tokens=1, plan=with_plan(value))
                ),
                "speculation",
                id=f"speculation {value}",
            )
            for value in (6, 77)
        ],
        *[
            pytest.param(lambda read=read: read(with_plan(77)), "speculation", id=f"speculation of {name}")
            for name, read in {
                "a plan": convert.plan_from_wire,
                "a commit": lambda plan: convert.commit_from_wire(wire.Commit(plan=plan)),
                "an advance": lambda plan: convert.advance_from_wire(wire.Advance(plan=plan)),
            }.items()
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
        pytest.param(
            lambda: convert.check_block(wire.Block.FromString(with_enum(b"", 4, 77))),
            "origin",
            id="block origin on the way",
        ),
        *[
            pytest.param(
                lambda value=value: convert.commit_from_wire(
                    wire.Commit(tokens=[wire.CommittedToken.FromString(with_enum(b"", 2, value))])
                ),
                "origin",
                id=f"token origin {value}",
            )
            for value in (wire.TOKEN_ORIGIN_UNSPECIFIED, 77)
        ],
        pytest.param(
            lambda: convert.commit_from_wire(wire.Commit.FromString(with_enum(b"", 8, 77))),
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


# Refused by code that reads a block, and by code that only forwards it.
block_readers = pytest.mark.parametrize("read", [convert.block_from_wire, convert.check_block])


@block_readers
@pytest.mark.parametrize("chances", [[0.5], [0.5, 0.5, 0.5], [0.5, 1.5], [-0.1, 0.5], [float("nan"), 0.5]])
def test_chances_that_are_none_or_too_few_are_refused(
    read: Callable[[wire.Block], object], chances: list[float]
) -> None:
    message = wire.Block(token_ids=[1, 2], origin=wire.BLOCK_ORIGIN_TRUNK, chances=chances)
    with pytest.raises(InvalidRequest, match="chance"):
        read(message)


@block_readers
def test_a_block_without_tokens_is_refused(read: Callable[[wire.Block], object]) -> None:
    with pytest.raises(InvalidRequest, match="a block without tokens; send at least one"):
        read(wire.Block(origin=wire.BLOCK_ORIGIN_TRUNK))


@settings(max_examples=40)
@given(block=BLOCK)
def test_a_block_that_is_passed_on_is_not_changed(block: Block) -> None:
    message = convert.block_to_wire(block)
    sent = message.SerializeToString()
    convert.check_block(message)
    assert message.SerializeToString() == sent


@pytest.mark.parametrize("least_chance", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_least_chance_that_is_no_probability_is_refused(least_chance: float) -> None:
    plan = wire.DraftPlan(least_chance=least_chance)
    for read in (
        lambda: convert.plan_from_wire(plan),
        lambda: convert.commit_from_wire(wire.Commit(plan=plan)),
        lambda: convert.advance_from_wire(wire.Advance(plan=plan)),
        lambda: convert.open_from_wire(wire.SessionOpen(token_ids=[1], prompt_tokens=1, plan=plan)),
    ):
        with pytest.raises(InvalidRequest, match="least_chance"):
            read()


@block_readers
def test_a_block_has_one_distribution_a_token_or_none(read: Callable[[wire.Block], object]) -> None:
    message = wire.Block(token_ids=[1, 2], origin=wire.BLOCK_ORIGIN_TRUNK, distributions=[wire.Distribution()])
    with pytest.raises(InvalidRequest, match="2 tokens has 1 distributions"):
        read(message)


@pytest.mark.parametrize(("blocks", "tokens"), [(1, MOST_MESSAGE_TOKENS + 1), (2, 600), (MOST_MESSAGE_TOKENS + 1, 1)])
def test_the_blocks_of_a_message_are_counted_before_they_are_read(blocks: int, tokens: int) -> None:
    # Without an origin, so whoever reads one complains about that.
    messages = [wire.Block(token_ids=[1] * tokens)] * blocks
    with pytest.raises(InvalidRequest, match=r"a message holds \d+ \w+; send at most 1024 at a time"):
        convert.blocks_from_wire(messages)


def test_a_message_holds_as_many_drafted_tokens_as_are_kept() -> None:
    block = Block(3, 5, (1,) * (MOST_MESSAGE_TOKENS // 2))
    assert convert.blocks_from_wire([convert.block_to_wire(block)] * 2) == [block, block]


def test_an_advance_holds_no_more_tokens_than_a_message_may() -> None:
    with pytest.raises(InvalidRequest, match="a message holds 1025 tokens"):
        convert.advance_from_wire(wire.Advance(token_ids=[1] * (MOST_MESSAGE_TOKENS + 1)))


def test_an_opening_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        convert.open_from_wire(wire.SessionOpen())


def test_another_protocol_version_is_a_mismatch_that_names_both() -> None:
    message = wire.ModelDescription(model_id="llama", protocol_version=99)
    with pytest.raises(PairMismatch, match="llama is served with protocol version 99"):
        convert.description_from_wire(message)


def test_fingerprints_take_eight_bytes_whatever_their_value() -> None:
    assert struct.pack("<Q", 5) in convert.block_to_wire(Block(0, 5, (1,))).SerializeToString()


@block_readers
@pytest.mark.parametrize(
    ("token_ids", "probabilities", "complaint"),
    [
        ([1, 2], [1.0], "2 token ids and 1 probabilities"),
        ([], [], "at least one"),
        ([1, 2], [-0.5, 1.0], "outside 0 to 1"),
        ([1], [float("nan")], "outside 0 to 1"),
        ([1], [float("inf")], "outside 0 to 1"),
        ([1] * (CUT_TOKENS + 1), [0.0] * (CUT_TOKENS + 1), "send the 64 most likely ones"),
    ],
)
def test_a_distribution_that_is_none_is_refused(
    read: Callable[[wire.Block], object], token_ids: list[int], probabilities: list[float], complaint: str
) -> None:
    distribution = wire.Distribution(token_ids=token_ids, probabilities=probabilities)
    message = wire.Block(token_ids=[1], origin=wire.BLOCK_ORIGIN_TRUNK, distributions=[distribution])
    with pytest.raises(InvalidRequest, match=complaint):
        read(message)
