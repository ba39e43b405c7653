"""VerifierService on the wire."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import Block
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.rpc.v1 import verifier_service_pb2 as wire
from sybil_engine.rpc.v1 import verifier_service_pb2_grpc as wire_grpc
from sybil_engine.serving.convert import block_from_wire, commit_to_wire, description_to_wire, open_from_wire
from sybil_engine.serving.model_service import HostedModel
from sybil_engine.serving.server import aborting
from sybil_engine.serving.session_stream import first_message, session_stream
from verifier_service.engine import Verifier
from verifier_service.session import VerifierSession


class VerifierServicer(wire_grpc.VerifierServiceServicer):
    """Streams between coordinators and the engine's thread.

    Args:
        tokenizer_json: the target's tokenizer, for coordinators.
    """

    def __init__(self, hosted: HostedModel[Verifier], tokenizer_json: bytes) -> None:
        self._hosted = hosted
        self._tokenizer_json = tokenizer_json

    async def Describe(
        self, request: types_pb2.DescribeRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> types_pb2.ModelDescription:
        return description_to_wire(self._hosted.description)

    async def GetTokenizer(
        self, request: wire.GetTokenizerRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> wire.GetTokenizerResponse:
        return wire.GetTokenizerResponse(tokenizer_json=self._tokenizer_json)

    async def Verify(
        self, requests: AsyncIterator[wire.VerifyRequest], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[wire.VerifyResponse]:
        async with aborting(context):
            opening = open_from_wire((await first_message(requests)).open)
            async with session_stream(self._hosted.thread, opening, requests, _decode, _handle) as (session, remote):
                yield wire.VerifyResponse(opened=types_pb2.SessionOpened(max_position=session.max_position))
                async for commits in remote.events():
                    for commit in commits:
                        yield wire.VerifyResponse(commit=commit_to_wire(commit))
                    if commits[-1].finish_reason:
                        return


def _decode(request: wire.VerifyRequest) -> list[Block]:
    if not request.blocks:
        raise InvalidRequest("a session is opened once; send blocks after it, or a new stream")
    return [block_from_wire(block) for block in request.blocks]


def _handle(session: VerifierSession, blocks: list[Block], arrived_ns: int) -> None:
    for block in blocks:
        session.offer(block, arrived_ns)
