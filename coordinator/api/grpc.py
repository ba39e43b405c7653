"""GenerationService on the wire."""

import math
import time
from contextlib import aclosing
from typing import Any, cast

import sybil_engine.serving.polling  # noqa: F401  before gRPC

# isort: split
import grpc

from coordinator.generation import Caller, Generation
from coordinator.routing import Router
from sybil_engine.core.errors import SlowReader
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc
from sybil_engine.serving import convert
from sybil_engine.serving.convert_completion import delta_to_wire, request_from_wire
from sybil_engine.serving.server import aborting
from sybil_engine.serving.slow_readers import write


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Adapts the generation core to gRPC.

    Args:
        slow_reader_s: how long a session waits for a client that does not read.
    """

    def __init__(self, generation: Generation, router: Router, slow_reader_s: float) -> None:
        self._generation = generation
        self._router = router
        self._slow_reader_s = slow_reader_s

    # Writing to the context instead of yielding: a client that leaves cancels this very coroutine, wherever it waits.
    async def Generate(  # type: ignore[override]
        self, request: wire.GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        async with (
            aborting(context),
            aclosing(self._generation.stream(request_from_wire(request), _caller(context))) as deltas,
        ):
            async for delta in deltas:
                try:
                    await write(context, delta_to_wire(delta), self._slow_reader_s)
                except SlowReader as error:
                    # The request has failed; its client has not left.
                    await deltas.athrow(error)

    async def DescribePair(
        self, request: wire.DescribePairRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> wire.DescribePairResponse:
        async with aborting(context):
            target = self._router.target.description
        draft = self._router.draft
        return wire.DescribePairResponse(
            target=convert.description_to_wire(target), draft=convert.description_to_wire(draft) if draft else None
        )


def _caller(context: "grpc.aio.ServicerContext[Any, Any]") -> Caller:
    # Without the port: more connections do not make more of a client.
    host = (context.peer() or "").rpartition(":")[0]
    remaining_s = cast("float | None", context.time_remaining())
    return Caller(host, math.inf if remaining_s is None else time.monotonic() + remaining_s)
