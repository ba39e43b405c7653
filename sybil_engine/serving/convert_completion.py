"""Completions between the wire and frozen values, for the coordinator's port and for its clients."""

from __future__ import annotations  # the value types of wire enums exist for the type checker only

from dataclasses import asdict, fields

from sybil_engine.core.completion import Delta, Ending, Usage
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import FinishReason, Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.serving import convert


def delta_to_wire(delta: Delta) -> wire.GenerateResponse:
    return wire.GenerateResponse(
        text=delta.text,
        tokens=map(convert.token_to_wire, delta.tokens),
        completion=_ending_to_wire(delta.ending) if delta.ending else None,
    )


def delta_from_wire(message: wire.GenerateResponse) -> Delta:
    return Delta(
        message.text,
        tuple(map(convert.token_from_wire, message.tokens)),
        _ending_from_wire(message.completion) if message.HasField("completion") else None,
    )


def _ending_to_wire(ending: Ending) -> wire.Completion:
    return wire.Completion(
        finish_reason=convert.finish_reason_to_wire(ending.finish_reason),
        seed=ending.seed,
        usage=wire.Usage(**asdict(ending.usage)),
        speculation=convert.speculation_to_wire(ending.speculation),
        reason=ending.reason,
        passes=[
            wire.PassCount(speculation=convert.speculation_to_wire(speculation), passes=passes)
            for speculation, passes in ending.passes.items()
        ],
    )


def _ending_from_wire(message: wire.Completion) -> Ending:
    finish_reason: FinishReason | None = convert.finish_reason_from_wire(message.finish_reason)
    if finish_reason is None:
        raise InvalidRequest("a completion ended without a finish reason; run the same version on both sides")
    return Ending(
        finish_reason,
        message.seed,
        convert.speculation_from_wire(message.speculation, Speculation.OFF),
        Usage(**{each.name: getattr(message.usage, each.name) for each in fields(Usage)}),
        {convert.speculation_from_wire(each.speculation, Speculation.OFF): each.passes for each in message.passes},
        message.reason,
    )
