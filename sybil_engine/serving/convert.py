"""Between the wire and frozen values: the only place that knows both.

`..._to_wire` never fails; `..._from_wire` raises InvalidRequest when a message says something impossible.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from sybil_engine import PROTOCOL_VERSION
from sybil_engine.core.errors import InvalidRequest, PairMismatch
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import Advance, Commit, DrafterShare, SessionOpen
from sybil_engine.core.types import (
    CUT_TOKENS,
    MODEL_DRAFTER,
    MOST_MESSAGE_TOKENS,
    AcceptanceRule,
    Block,
    BlockOrigin,
    CommittedToken,
    Distribution,
    DrafterCount,
    FinishReason,
    ModelDescription,
    PassTimings,
    SamplingParams,
    Speculation,
    TokenOrigin,
)
from sybil_engine.rpc.v1 import types_pb2 as wire
from sybil_engine.serving.copying import to_message, to_value

Member = TypeVar("Member", bound=Enum)
Value = TypeVar("Value")


def _members(kind: type[Member], wire_enum: Any) -> dict[int, Member]:
    """The members of an enum by their numbers on the wire, where the member NAME is called PREFIX_NAME."""
    prefix = wire_enum.Name(0).removesuffix("UNSPECIFIED")
    return {wire_enum.Value(prefix + member.name): member for member in kind}


_SPECULATION = {0: Speculation.OFF} | _members(Speculation, wire.Speculation)
_ACCEPTANCE_RULE = {0: AcceptanceRule.SHARED_NOISE} | _members(AcceptanceRule, wire.AcceptanceRule)
_BLOCK_ORIGIN = _members(BlockOrigin, wire.BlockOrigin)
_TOKEN_ORIGIN = _members(TokenOrigin, wire.TokenOrigin)
_FINISH_REASON: dict[int, FinishReason | None] = {0: None} | _members(FinishReason, wire.FinishReason)

ENUM_TO_WIRE: dict[Enum | None, Any] = {
    member: number
    for table in (_SPECULATION, _ACCEPTANCE_RULE, _BLOCK_ORIGIN, _TOKEN_ORIGIN, _FINISH_REASON)
    for number, member in table.items()
}
"""The number on the wire of every member of an enum; 0 for None."""


def speculation_from_wire(value: int) -> Speculation:
    return _known(_SPECULATION, value, "speculation")


def acceptance_rule_from_wire(value: int) -> AcceptanceRule:
    return _known(_ACCEPTANCE_RULE, value, "acceptance_rule")


def finish_reason_from_wire(value: int) -> FinishReason | None:
    return _known(_FINISH_REASON, value, "finish_reason")


def plan_to_wire(plan: DraftPlan) -> wire.DraftPlan:
    return wire.DraftPlan(
        speculation=ENUM_TO_WIRE[plan.speculation],
        budget=plan.budget,
        rows=plan.rows,
        hold_until=plan.hold_until,
        least_chance=plan.least_chance,
    )


def plan_from_wire(message: wire.DraftPlan) -> DraftPlan:
    return DraftPlan(
        speculation=speculation_from_wire(message.speculation),
        budget=message.budget,
        rows=max(1, message.rows),
        hold_until=message.hold_until,
        least_chance=message.least_chance,
    )


def token_to_wire(token: CommittedToken) -> wire.CommittedToken:
    return wire.CommittedToken(
        token_id=token.token_id, origin=ENUM_TO_WIRE[token.origin], logprob=token.logprob, drafter=token.drafter
    )


def token_from_wire(message: wire.CommittedToken) -> CommittedToken:
    return CommittedToken(
        message.token_id,
        _known(_TOKEN_ORIGIN, message.origin, "origin"),
        message.logprob if message.HasField("logprob") else None,
        message.drafter,
    )


def drafters_to_wire(counts: Sequence[DrafterCount]) -> list[wire.DrafterCount]:
    return [to_message(wire.DrafterCount, each) for each in counts]


def drafters_from_wire(messages: Sequence[wire.DrafterCount]) -> tuple[DrafterCount, ...]:
    return tuple(to_value(DrafterCount, each) for each in messages)


def open_to_wire(opening: SessionOpen) -> wire.SessionOpen:
    return to_message(
        wire.SessionOpen,
        opening,
        sampling=to_message(wire.SamplingParams, opening.sampling),
        stop_token_ids=sorted(opening.stop_token_ids),
        plan=plan_to_wire(opening.plan),
        share=to_message(wire.DrafterShare, opening.share),
        acceptance_rule=ENUM_TO_WIRE[opening.acceptance_rule],
    )


def open_from_wire(message: wire.SessionOpen) -> SessionOpen:
    return to_value(
        SessionOpen,
        message,
        sampling=to_value(SamplingParams, message.sampling),
        stop_token_ids=frozenset(message.stop_token_ids),
        plan=plan_from_wire(message.plan),
        acceptance_rule=acceptance_rule_from_wire(message.acceptance_rule),
        drafters=tuple(message.drafters) or (MODEL_DRAFTER,),
        share=DrafterShare(message.share.index, message.share.of or 1),
    )


def block_to_wire(block: Block) -> wire.Block:
    return wire.Block(
        position=block.position,
        prefix_fingerprint=block.prefix_fingerprint,
        token_ids=block.token_ids,
        origin=ENUM_TO_WIRE[block.origin],
        distributions=[
            wire.Distribution(token_ids=each.token_ids, probabilities=each.probabilities)
            for each in block.distributions
        ],
        draft_ns=block.draft_ns,
        chances=block.chances,
        known_tokens=block.known_tokens,
        drafter=block.drafter,
    )


def block_batches(blocks: Sequence[wire.Block]) -> Iterator[Sequence[wire.Block]]:
    """Blocks in as few messages as may hold them; see `MOST_MESSAGE_TOKENS`."""
    start = tokens = 0
    for index, block in enumerate(blocks):
        if index > start and tokens + len(block.token_ids) > MOST_MESSAGE_TOKENS:
            yield blocks[start:index]
            start, tokens = index, 0
        tokens += len(block.token_ids)
    yield blocks[start:]


def check_blocks(messages: Sequence[wire.Block]) -> None:
    """Check the blocks of one message: first how many tokens they hold, then each of them.

    Raises:
        InvalidRequest: they are too many, or one says something impossible.
    """
    # A block that holds no token is wrong.
    if len(messages) > MOST_MESSAGE_TOKENS:
        raise InvalidRequest(f"a message holds {len(messages)} blocks; send at most {MOST_MESSAGE_TOKENS} at a time")
    check_message_tokens(sum(len(each.token_ids) for each in messages))
    for message in messages:
        check_block(message)


def check_message_tokens(tokens: int) -> None:
    """Raises InvalidRequest: a message holds more tokens than a running session can use."""
    if tokens > MOST_MESSAGE_TOKENS:
        raise InvalidRequest(
            f"a message holds {tokens} tokens; send at most {MOST_MESSAGE_TOKENS} at a time, which is as many drafted "
            "tokens as are kept for a session"
        )


def check_block(message: wire.Block) -> None:
    """Check a block that is forwarded as it is.

    Raises:
        InvalidRequest: it says something impossible.
    """
    tokens = len(message.token_ids)
    _known(_BLOCK_ORIGIN, message.origin, "origin")
    if not tokens:
        raise InvalidRequest("a block without tokens; send at least one")
    for name, values in (("distributions", message.distributions), ("chances", message.chances)):
        if values and len(values) != tokens:
            raise InvalidRequest(f"a block of {tokens} tokens has {len(values)} {name}; send one a token, or none")
    if not all(0 <= chance <= 1 for chance in message.chances):
        raise InvalidRequest("the chance of a drafted token is not between 0 and 1; send probabilities, or none")
    for distribution in message.distributions:
        _check_distribution(distribution)


def blocks_from_wire(messages: Sequence[wire.Block]) -> list[Block]:
    check_blocks(messages)
    return list(map(_block, messages))


def block_from_wire(message: wire.Block) -> Block:
    check_block(message)
    return _block(message)


def _block(message: wire.Block) -> Block:
    return Block(
        position=message.position,
        prefix_fingerprint=message.prefix_fingerprint,
        token_ids=tuple(message.token_ids),
        origin=_BLOCK_ORIGIN[message.origin],
        distributions=tuple(
            Distribution(tuple(each.token_ids), tuple(each.probabilities)) for each in message.distributions
        ),
        draft_ns=message.draft_ns,
        chances=tuple(message.chances),
        known_tokens=message.known_tokens,
        drafter=message.drafter or MODEL_DRAFTER,
    )


def _check_distribution(message: wire.Distribution) -> None:
    if len(message.token_ids) > CUT_TOKENS:
        raise InvalidRequest(
            f"a distribution has {len(message.token_ids)} token ids; send the {CUT_TOKENS} most likely ones"
        )
    if not message.token_ids or len(message.token_ids) != len(message.probabilities):
        raise InvalidRequest(
            f"a distribution has {len(message.token_ids)} token ids and {len(message.probabilities)} probabilities; "
            "send as many of the one as of the other, at least one"
        )
    if not all(0 <= probability <= 1.001 for probability in message.probabilities):
        raise InvalidRequest("a distribution has a probability outside 0 to 1; send normalised probabilities")


def commit_to_wire(commit: Commit) -> wire.Commit:
    timings = commit.timings
    return wire.Commit(
        position=commit.position,
        prefix_fingerprint=commit.prefix_fingerprint,
        tokens=map(token_to_wire, commit.tokens),
        judged=commit.judged,
        accepted=commit.accepted,
        plan=plan_to_wire(commit.plan),
        timings=wire.PassTimings(
            wait_ns=timings.wait_ns,
            gap_ns=timings.gap_ns,
            forward_ns=timings.forward_ns,
            sampling_ns=timings.sampling_ns,
        ),
        finish_reason=ENUM_TO_WIRE[commit.finish_reason],
        reason=commit.reason,
        cached_prompt_tokens=commit.cached_prompt_tokens,
        drafters=drafters_to_wire(commit.drafters),
    )


def commit_from_wire(message: wire.Commit) -> Commit:
    timings = message.timings
    return Commit(
        position=message.position,
        prefix_fingerprint=message.prefix_fingerprint,
        tokens=tuple(map(token_from_wire, message.tokens)),
        judged=message.judged,
        accepted=message.accepted,
        plan=plan_from_wire(message.plan),
        timings=PassTimings(timings.wait_ns, timings.gap_ns, timings.forward_ns, timings.sampling_ns),
        finish_reason=finish_reason_from_wire(message.finish_reason),
        reason=message.reason,
        cached_prompt_tokens=message.cached_prompt_tokens,
        drafters=drafters_from_wire(message.drafters),
    )


def advance_to_wire(advance: Advance) -> wire.Advance:
    return wire.Advance(
        position=advance.position,
        prefix_fingerprint=advance.prefix_fingerprint,
        token_ids=advance.token_ids,
        plan=plan_to_wire(advance.plan),
    )


def advance_from_wire(message: wire.Advance) -> Advance:
    check_message_tokens(len(message.token_ids))
    return Advance(
        position=message.position,
        prefix_fingerprint=message.prefix_fingerprint,
        token_ids=tuple(message.token_ids),
        plan=plan_from_wire(message.plan),
    )


def description_to_wire(description: ModelDescription) -> wire.ModelDescription:
    return to_message(wire.ModelDescription, description, protocol_version=PROTOCOL_VERSION)


def description_from_wire(message: wire.ModelDescription) -> ModelDescription:
    if message.protocol_version != PROTOCOL_VERSION:
        raise PairMismatch(
            f"{message.model_id} is served with protocol version {message.protocol_version}, this side speaks "
            f"{PROTOCOL_VERSION}; run the same version of the engine on both"
        )
    return to_value(
        ModelDescription, message, tokenizer_parts=dict(message.tokenizer_parts), threads=max(1, message.threads)
    )


def _known(table: Mapping[int, Value], value: int, field: str) -> Value:
    try:
        return table[value]
    except KeyError:
        served = ", ".join(dict.fromkeys(member.value for member in table.values() if isinstance(member, Enum)))
        raise InvalidRequest(
            f"{field} has the value {value}, which this version does not serve; choose one of {served}"
        ) from None
