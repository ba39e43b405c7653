"""Between the wire and frozen values: the only place that knows both.

`..._to_wire` never fails; `..._from_wire` raises InvalidRequest when a message says something impossible.
"""

from __future__ import annotations  # the value types of wire enums exist for the type checker only

from collections.abc import Mapping
from typing import TypeVar

from sybil_engine import PROTOCOL_VERSION
from sybil_engine.core.errors import InvalidRequest, PairMismatch
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import Advance, Commit, SessionOpen
from sybil_engine.core.types import (
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
from sybil_engine.rpc.v1 import types_pb2 as wire

_SPECULATION = {
    wire.SPECULATION_OFF: Speculation.OFF,
    wire.SPECULATION_LOCKSTEP: Speculation.LOCKSTEP,
    wire.SPECULATION_PIPELINED: Speculation.PIPELINED,
    wire.SPECULATION_HEDGED: Speculation.HEDGED,
    wire.SPECULATION_AUTO: Speculation.AUTO,
}
_ACCEPTANCE_RULE = {
    wire.ACCEPTANCE_RULE_UNSPECIFIED: AcceptanceRule.SHARED_NOISE,
    wire.ACCEPTANCE_RULE_SHARED_NOISE: AcceptanceRule.SHARED_NOISE,
    wire.ACCEPTANCE_RULE_RATIO_TEST: AcceptanceRule.RATIO_TEST,
}
_BLOCK_ORIGIN = {wire.BLOCK_ORIGIN_TRUNK: BlockOrigin.TRUNK, wire.BLOCK_ORIGIN_HEDGE: BlockOrigin.HEDGE}
_TOKEN_ORIGIN = {wire.TOKEN_ORIGIN_DRAFTED: TokenOrigin.DRAFTED, wire.TOKEN_ORIGIN_TARGET: TokenOrigin.TARGET}
_FINISH_REASON = {
    wire.FINISH_REASON_UNSPECIFIED: None,
    wire.FINISH_REASON_STOP: FinishReason.STOP,
    wire.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_SPECULATION_TO_WIRE = {value: key for key, value in _SPECULATION.items()}
_ACCEPTANCE_RULE_TO_WIRE = {value: key for key, value in _ACCEPTANCE_RULE.items()}
_BLOCK_ORIGIN_TO_WIRE = {value: key for key, value in _BLOCK_ORIGIN.items()}
_TOKEN_ORIGIN_TO_WIRE = {value: key for key, value in _TOKEN_ORIGIN.items()}
_FINISH_REASON_TO_WIRE = {value: key for key, value in _FINISH_REASON.items()}

Key = TypeVar("Key")
Value = TypeVar("Value")


def sampling_to_wire(params: SamplingParams) -> wire.SamplingParams:
    return wire.SamplingParams(
        temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p
    )


def sampling_from_wire(message: wire.SamplingParams) -> SamplingParams:
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
    )


def speculation_to_wire(speculation: Speculation) -> wire.Speculation.ValueType:
    return _SPECULATION_TO_WIRE[speculation]


def speculation_from_wire(value: wire.Speculation.ValueType, default: Speculation) -> Speculation:
    if value == wire.SPECULATION_UNSPECIFIED:
        return default
    return _known(_SPECULATION, value, "speculation")


def acceptance_rule_from_wire(value: wire.AcceptanceRule.ValueType) -> AcceptanceRule:
    return _known(_ACCEPTANCE_RULE, value, "acceptance_rule")


def acceptance_rule_to_wire(rule: AcceptanceRule) -> wire.AcceptanceRule.ValueType:
    return _ACCEPTANCE_RULE_TO_WIRE[rule]


def finish_reason_from_wire(value: wire.FinishReason.ValueType) -> FinishReason | None:
    return _known(_FINISH_REASON, value, "finish_reason")


def finish_reason_to_wire(reason: FinishReason | None) -> wire.FinishReason.ValueType:
    return _FINISH_REASON_TO_WIRE[reason]


def plan_to_wire(plan: DraftPlan) -> wire.DraftPlan:
    return wire.DraftPlan(
        speculation=speculation_to_wire(plan.speculation),
        budget=plan.budget,
        rows=plan.rows,
        hold_until=plan.hold_until,
        least_chance=plan.least_chance,
    )


def plan_from_wire(message: wire.DraftPlan) -> DraftPlan:
    return DraftPlan(
        speculation=speculation_from_wire(message.speculation, Speculation.OFF),
        budget=message.budget,
        rows=max(1, message.rows),
        hold_until=message.hold_until,
        least_chance=message.least_chance,
    )


def token_to_wire(token: CommittedToken) -> wire.CommittedToken:
    return wire.CommittedToken(
        token_id=token.token_id, origin=_TOKEN_ORIGIN_TO_WIRE[token.origin], logprob=token.logprob
    )


def token_from_wire(message: wire.CommittedToken) -> CommittedToken:
    return CommittedToken(
        message.token_id,
        _known(_TOKEN_ORIGIN, message.origin, "origin"),
        message.logprob if message.HasField("logprob") else None,
    )


def open_to_wire(opening: SessionOpen) -> wire.SessionOpen:
    return wire.SessionOpen(
        session_id=opening.session_id,
        token_ids=opening.token_ids,
        prompt_tokens=opening.prompt_tokens,
        sampling=sampling_to_wire(opening.sampling),
        seed=opening.seed,
        stop_token_ids=sorted(opening.stop_token_ids),
        max_position=opening.max_position,
        plan=plan_to_wire(opening.plan),
        window_tokens=opening.window_tokens,
        acceptance_rule=acceptance_rule_to_wire(opening.acceptance_rule),
        logprobs=opening.logprobs,
        shares_processor=opening.shares_processor,
    )


def open_from_wire(message: wire.SessionOpen) -> SessionOpen:
    return SessionOpen(
        session_id=message.session_id,
        token_ids=tuple(message.token_ids),
        prompt_tokens=message.prompt_tokens,
        sampling=sampling_from_wire(message.sampling),
        seed=message.seed,
        stop_token_ids=frozenset(message.stop_token_ids),
        max_position=message.max_position,
        plan=plan_from_wire(message.plan),
        window_tokens=message.window_tokens,
        acceptance_rule=acceptance_rule_from_wire(message.acceptance_rule),
        logprobs=message.logprobs,
        shares_processor=message.shares_processor,
    )


def block_to_wire(block: Block) -> wire.Block:
    return wire.Block(
        position=block.position,
        prefix_fingerprint=block.prefix_fingerprint,
        token_ids=block.token_ids,
        origin=_BLOCK_ORIGIN_TO_WIRE[block.origin],
        distributions=[
            wire.Distribution(token_ids=each.token_ids, probabilities=each.probabilities)
            for each in block.distributions
        ],
        draft_ns=block.draft_ns,
        chances=block.chances,
        known_tokens=block.known_tokens,
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


def block_from_wire(message: wire.Block) -> Block:
    check_block(message)
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
    )


def _check_distribution(message: wire.Distribution) -> None:
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
        finish_reason=finish_reason_to_wire(commit.finish_reason),
        reason=commit.reason,
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
    )


def advance_to_wire(commit: Commit) -> wire.Advance:
    """The part of a commit that a drafter reads."""
    return wire.Advance(
        position=commit.position,
        prefix_fingerprint=commit.prefix_fingerprint,
        token_ids=commit.token_ids,
        plan=plan_to_wire(commit.plan),
    )


def advance_from_wire(message: wire.Advance) -> Advance:
    return Advance(
        position=message.position,
        prefix_fingerprint=message.prefix_fingerprint,
        token_ids=tuple(message.token_ids),
        plan=plan_from_wire(message.plan),
    )


def description_to_wire(description: ModelDescription) -> wire.ModelDescription:
    return wire.ModelDescription(
        model_id=description.model_id,
        architecture=description.architecture,
        parameters=description.parameters,
        vocabulary_size=description.vocabulary_size,
        tokenizer_fingerprint=description.tokenizer_fingerprint,
        tokenizer_parts=dict(description.tokenizer_parts),
        end_token_ids=description.end_token_ids,
        begin_token_id=description.begin_token_id,
        context_tokens=description.context_tokens,
        dtype=description.dtype,
        device=description.device,
        protocol_version=PROTOCOL_VERSION,
        max_sessions=description.max_sessions,
        numerics=description.numerics,
        row_class=description.row_class,
        processors=description.processors,
        threads=description.threads,
        kernels=description.kernels,
        ready=description.ready,
    )


def description_from_wire(message: wire.ModelDescription) -> ModelDescription:
    if message.protocol_version != PROTOCOL_VERSION:
        raise PairMismatch(
            f"{message.model_id} is served with protocol version {message.protocol_version}, this side speaks "
            f"{PROTOCOL_VERSION}; run the same version of the engine on both"
        )
    return ModelDescription(
        model_id=message.model_id,
        architecture=message.architecture,
        parameters=message.parameters,
        vocabulary_size=message.vocabulary_size,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        tokenizer_parts=dict(message.tokenizer_parts),
        end_token_ids=tuple(message.end_token_ids),
        begin_token_id=message.begin_token_id if message.HasField("begin_token_id") else None,
        context_tokens=message.context_tokens,
        dtype=message.dtype,
        device=message.device,
        max_sessions=message.max_sessions,
        numerics=message.numerics,
        row_class=tuple(message.row_class),
        processors=tuple(message.processors),
        threads=max(1, message.threads),
        kernels=message.kernels,
        ready=message.ready,
    )


def _known(table: Mapping[Key, Value], value: Key, field: str) -> Value:
    try:
        return table[value]
    except KeyError:
        raise InvalidRequest(f"{field} has the value {value}, which this version does not serve") from None
