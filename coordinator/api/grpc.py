"""GenerationService on the wire."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import grpc

from coordinator.generation import Generation
from coordinator.request import GenerationRequest
from coordinator.routing import Router
from sybil_engine.core.errors import InvalidRequest, SybilError
from sybil_engine.core.types import Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc
from sybil_engine.serving import convert
from sybil_engine.serving.convert_completion import delta_to_wire
from sybil_engine.serving.server import status_code


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Adapts the generation core to gRPC."""

    def __init__(self, generation: Generation, router: Router) -> None:
        self._generation = generation
        self._router = router

    # Writing to the context instead of yielding: a client that leaves cancels this very coroutine, wherever it waits.
    async def Generate(  # type: ignore[override]
        self, request: wire.GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        try:
            async with aclosing(self._generation.stream(_request_from_wire(request))) as deltas:
                async for delta in deltas:
                    await context.write(delta_to_wire(delta))
        except SybilError as error:
            await context.abort(status_code(error), str(error))

    async def DescribePair(
        self, request: wire.DescribePairRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> wire.DescribePairResponse:
        try:
            target = self._router.target.description
        except SybilError as error:
            await context.abort(status_code(error), str(error))
        draft = self._router.draft
        return wire.DescribePairResponse(
            target=convert.description_to_wire(target), draft=convert.description_to_wire(draft) if draft else None
        )


def _request_from_wire(message: wire.GenerateRequest) -> GenerationRequest:
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


def _prompt_from_wire(message: wire.GenerateRequest) -> str | Sequence[int] | None:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "token_ids":
            return message.token_ids.ids
        case _:
            return None


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
