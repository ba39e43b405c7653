"""VerifierService on the wire."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import Block
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.rpc.v1 import verifier_service_pb2 as wire
from sybil_engine.rpc.v1 import verifier_service_pb2_grpc as wire_grpc
from sybil_engine.serving.convert import blocks_from_wire, commit_to_wire, description_to_wire
from sybil_engine.serving.model_service import HostedModel
from sybil_engine.serving.server import aborting
from sybil_engine.serving.session_stream import read_opening, session_stream
from sybil_engine.serving.slow_readers import write
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

    async def Verify(  # type: ignore[override]
        self, requests: AsyncIterator[wire.VerifyRequest], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        hosted = self._hosted
        async with aborting(context):
            opening = await read_opening(requests, hosted.description.context_tokens)
            async with session_stream(hosted.thread, opening, requests, _decode, _handle, _tokens) as (session, remote):
                opened = types_pb2.SessionOpened(max_position=session.max_position)
                await write(context, wire.VerifyResponse(opened=opened), hosted.slow_reader_s)
                async for commits in remote.events():
                    for commit in commits:
                        await write(context, wire.VerifyResponse(commit=commit_to_wire(commit)), hosted.slow_reader_s)
                    if commits[-1].finish_reason:
                        return


def _decode(request: wire.VerifyRequest) -> list[Block]:
    if not request.blocks:
        raise InvalidRequest("a session is opened once; send blocks after it, or a new stream")
    return blocks_from_wire(request.blocks)


def _tokens(blocks: list[Block]) -> int:
    return sum(len(block.token_ids) for block in blocks)


def _handle(session: VerifierSession, blocks: list[Block], arrived_ns: int) -> None:
    for block in blocks:
        session.offer(block, arrived_ns)
