"""Requests and completions between the wire and frozen values, for the coordinator's port and for its clients."""

from __future__ import annotations  # the value types of wire enums exist for the type checker only

from collections.abc import Sequence
from dataclasses import asdict, fields

from sybil_engine.core.completion import Delta, Ending, Usage
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import FinishReason, Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.serving import convert


def request_to_wire(request: GenerationRequest) -> wire.GenerateRequest:
    message = wire.GenerateRequest(
        sampling=convert.sampling_to_wire(request.sampling),
        seed=request.seed,
        max_tokens=request.max_tokens,
        stop=request.stop,
        stop_token_ids=request.stop_token_ids,
        ignore_end_tokens=request.ignore_end_tokens,
        window_tokens=request.window_tokens,
        acceptance_rule=convert.acceptance_rule_to_wire(request.acceptance_rule),
        logprobs=request.logprobs,
        resume_token_ids=request.resume_token_ids,
    )
    if isinstance(request.prompt, str):
        message.text = request.prompt
    else:
        message.token_ids.ids.extend(request.prompt)
    if request.speculation:
        message.speculation = convert.speculation_to_wire(request.speculation)
    return message


def request_from_wire(message: wire.GenerateRequest) -> GenerationRequest:
    """Raises InvalidRequest: a value that this version does not serve."""
    return GenerationRequest(
        prompt=_prompt_from_wire(message),
        sampling=convert.sampling_from_wire(message.sampling),
        seed=message.seed if message.HasField("seed") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=message.stop,
        stop_token_ids=message.stop_token_ids,
        ignore_end_tokens=message.ignore_end_tokens,
        speculation=_speculation_from_wire(message),
        window_tokens=message.window_tokens,
        acceptance_rule=convert.acceptance_rule_from_wire(message.acceptance_rule),
        logprobs=message.logprobs,
        resume_token_ids=message.resume_token_ids,
    )


def _prompt_from_wire(message: wire.GenerateRequest) -> str | Sequence[int]:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "token_ids":
            return message.token_ids.ids
        case _:
            raise InvalidRequest("the prompt is missing; set either text or token_ids")


def _speculation_from_wire(message: wire.GenerateRequest) -> Speculation | None:
    if not message.speculation:
        return None
    try:
        return convert.speculation_from_wire(message.speculation, Speculation.OFF)
    except InvalidRequest:
        served = ", ".join(each.value for each in Speculation)
        raise InvalidRequest(
            f"speculation has the value {message.speculation}, which this version does not serve; choose one of "
            f"{served}"
        ) from None


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
