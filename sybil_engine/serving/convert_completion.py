"""Requests and completions between the wire and frozen values, for the coordinator's port and for its clients."""

from collections.abc import Sequence

from sybil_engine.core.completion import Delta, Ending, Usage
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import SamplingParams
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.serving import convert
from sybil_engine.serving.convert import ENUM_TO_WIRE
from sybil_engine.serving.copying import to_message, to_value


def request_to_wire(request: GenerationRequest) -> wire.GenerateRequest:
    prompt, prediction = request.prompt, request.prediction
    return to_message(
        wire.GenerateRequest,
        request,
        text=prompt if isinstance(prompt, str) else None,
        token_ids=None if isinstance(prompt, str) else wire.TokenIds(ids=prompt),
        sampling=to_message(types_pb2.SamplingParams, request.sampling),
        speculation=ENUM_TO_WIRE[request.speculation],
        acceptance_rule=ENUM_TO_WIRE[request.acceptance_rule],
        prediction=(prediction or None) if isinstance(prediction, str) else None,
        prediction_token_ids=None if isinstance(prediction, str) else wire.TokenIds(ids=prediction),
    )


def request_from_wire(message: wire.GenerateRequest) -> GenerationRequest:
    """Raises InvalidRequest: a value that this version does not serve.

    Lists stay as they came: they are copied only after their lengths have been checked.
    """
    return to_value(
        GenerationRequest,
        message,
        prompt=_prompt_from_wire(message),
        stop=message.stop,
        stop_token_ids=message.stop_token_ids,
        resume_token_ids=message.resume_token_ids,
        sampling=to_value(SamplingParams, message.sampling),
        speculation=convert.speculation_from_wire(message.speculation) if message.speculation else None,
        acceptance_rule=convert.acceptance_rule_from_wire(message.acceptance_rule),
        drafters=message.drafters,
        prediction=_prediction_from_wire(message),
    )


def _prompt_from_wire(message: wire.GenerateRequest) -> str | Sequence[int]:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "token_ids":
            return message.token_ids.ids
        case _:
            raise InvalidRequest("the prompt is missing; set either text or token_ids")


def _prediction_from_wire(message: wire.GenerateRequest) -> str | Sequence[int]:
    return message.prediction_token_ids.ids if message.HasField("prediction_token_ids") else message.prediction


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
    return to_message(
        wire.Completion,
        ending,
        finish_reason=ENUM_TO_WIRE[ending.finish_reason],
        usage=to_message(wire.Usage, ending.usage, drafters=convert.drafters_to_wire(ending.usage.drafters)),
        speculation=ENUM_TO_WIRE[ending.speculation],
        acceptance_rule=ENUM_TO_WIRE[ending.acceptance_rule],
        passes=[
            wire.PassCount(speculation=ENUM_TO_WIRE[speculation], passes=passes)
            for speculation, passes in ending.passes.items()
        ],
    )


def _ending_from_wire(message: wire.Completion) -> Ending:
    finish_reason = convert.finish_reason_from_wire(message.finish_reason)
    if finish_reason is None:
        raise InvalidRequest("a completion ended without a finish reason; run the same version on both sides")
    return to_value(
        Ending,
        message,
        finish_reason=finish_reason,
        speculation=convert.speculation_from_wire(message.speculation),
        acceptance_rule=convert.acceptance_rule_from_wire(message.acceptance_rule),
        usage=to_value(Usage, message.usage, drafters=convert.drafters_from_wire(message.usage.drafters)),
        passes={convert.speculation_from_wire(each.speculation): each.passes for each in message.passes},
    )
