"""DrafterService on the wire."""

from collections.abc import AsyncIterator
from itertools import chain
from typing import Any

import grpc

from drafter_service.engine import Drafter
from drafter_service.session import DrafterSession
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.session import Advance
from sybil_engine.rpc.v1 import drafter_service_pb2 as wire
from sybil_engine.rpc.v1 import drafter_service_pb2_grpc as wire_grpc
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.serving.convert import advance_from_wire, block_batches, block_to_wire, description_to_wire
from sybil_engine.serving.model_service import HostedModel
from sybil_engine.serving.server import aborting
from sybil_engine.serving.session_stream import read_opening, session_stream
from sybil_engine.serving.slow_readers import write


class DrafterServicer(wire_grpc.DrafterServiceServicer):
    """Streams between coordinators and the engine's thread."""

    def __init__(self, hosted: HostedModel[Drafter]) -> None:
        self._hosted = hosted

    async def Describe(
        self, request: types_pb2.DescribeRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> types_pb2.ModelDescription:
        return description_to_wire(self._hosted.description)

    async def Draft(  # type: ignore[override]
        self, requests: AsyncIterator[wire.DraftRequest], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        hosted = self._hosted
        async with aborting(context):
            opening = await read_opening(requests, hosted.description.context_tokens)
            async with session_stream(hosted.thread, opening, requests, _decode, _handle, _tokens) as (session, remote):
                opened = types_pb2.SessionOpened(max_position=session.max_position)
                await write(context, wire.DraftResponse(opened=opened), hosted.slow_reader_s)
                async for pushes in remote.events():
                    blocks = [block_to_wire(block) for block in chain.from_iterable(pushes)]
                    for batch in block_batches(blocks):
                        await write(context, wire.DraftResponse(blocks=batch), hosted.slow_reader_s)


def _decode(request: wire.DraftRequest) -> Advance:
    if not request.HasField("advance"):
        raise InvalidRequest("a session is opened once; send advances after it, or a new stream")
    return advance_from_wire(request.advance)


def _tokens(advance: Advance) -> int:
    return len(advance.token_ids)


def _handle(session: DrafterSession, advance: Advance, arrived_ns: int) -> None:
    session.advance(advance)
