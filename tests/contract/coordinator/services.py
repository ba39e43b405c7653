"""A drafter and a verifier without models: every token is a function of the tokens before it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc

from sybil_engine.core.session import Advance, SessionOpen
from sybil_engine.core.types import ModelDescription
from sybil_engine.rpc.v1 import (
    drafter_service_pb2,
    drafter_service_pb2_grpc,
    types_pb2,
    verifier_service_pb2,
    verifier_service_pb2_grpc,
)
from sybil_engine.serving import convert
from sybil_engine.serving.server import RunningServer, running_server
from tests.unit.coordinator.toy import (
    Plans,
    ToyDraft,
    ToyVerification,
    ahead,
    judged,
    toy_description,
    toy_tokenizer_json,
)


@dataclass
class ToyVerifier(verifier_service_pb2_grpc.VerifierServiceServicer):
    """Judges drafts against the toy target.

    Attributes:
        pass_s: how long a pass takes.
        refuse_with: status of every new session.
        full_with: status of a session that finds every slot taken.
        break_after: passes after which every session breaks with UNAVAILABLE; None: never.
        plans: what its rule decides.
        blocks: those that arrived, as they came.
    """

    description: ModelDescription = field(default_factory=lambda: toy_description("toy-target"))
    pass_s: float = 0.002
    refuse_with: grpc.StatusCode | None = None
    full_with: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED
    break_after: int | None = None
    plans: Plans = ahead
    sessions: int = 0
    most_sessions: int = 0
    openings: list[SessionOpen] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    file = verifier_service_pb2.DESCRIPTOR

    def add_to(self, server: grpc.aio.Server) -> None:
        verifier_service_pb2_grpc.add_VerifierServiceServicer_to_server(self, server)

    async def Describe(self, request: object, context: object) -> types_pb2.ModelDescription:
        return convert.description_to_wire(self.description)

    async def GetTokenizer(self, request: object, context: object) -> verifier_service_pb2.GetTokenizerResponse:
        return verifier_service_pb2.GetTokenizerResponse(tokenizer_json=toy_tokenizer_json())

    async def Verify(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[verifier_service_pb2.VerifyRequest],
        context: grpc.aio.ServicerContext[verifier_service_pb2.VerifyRequest, verifier_service_pb2.VerifyResponse],
    ) -> None:
        first = await anext(aiter(request_iterator))
        opening = convert.open_from_wire(first.open)
        self.openings.append(opening)
        if self.refuse_with:
            await context.abort(self.refuse_with, f"refused with {self.refuse_with.name}")
        if self.sessions >= self.description.max_sessions:
            await context.abort(self.full_with, "no free slot")
        self.sessions += 1
        self.most_sessions = max(self.most_sessions, self.sessions)
        verification = ToyVerification(opening, self.plans, judged)
        reading = asyncio.create_task(self._read(request_iterator, verification))
        try:
            await context.write(
                verifier_service_pb2.VerifyResponse(opened=types_pb2.SessionOpened(max_position=opening.max_position))
            )
            await self._verify(verification, context)
        finally:
            reading.cancel()
            self.sessions -= 1

    async def _verify(
        self,
        verification: ToyVerification,
        context: grpc.aio.ServicerContext[verifier_service_pb2.VerifyRequest, verifier_service_pb2.VerifyResponse],
    ) -> None:
        passes = 0
        while True:
            for _ in range(20):
                if not verification.waits:
                    break
                await asyncio.sleep(0.001)
            drafted = verification.drafted()
            await asyncio.sleep(self.pass_s)
            commit = verification.commit(drafted, int(self.pass_s * 1e9))
            passes += 1
            if self.break_after is not None and passes > self.break_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the toy breaks here")
            await context.write(verifier_service_pb2.VerifyResponse(commit=convert.commit_to_wire(commit)))
            if commit.finish_reason:
                return

    async def _read(
        self, requests: AsyncIterator[verifier_service_pb2.VerifyRequest], verification: ToyVerification
    ) -> None:
        async for request in requests:
            self.blocks += [block.SerializeToString() for block in request.blocks]
            verification.offer([convert.block_from_wire(block) for block in request.blocks])


@dataclass
class ToyDrafter(drafter_service_pb2_grpc.DrafterServiceServicer):
    """Guesses the toy target's tokens and misses every seventh or so.

    Attributes:
        step_s: how long a draft pass takes.
        break_after: blocks after which every session breaks with UNAVAILABLE; None: never.
        spoil: changes each message before it is sent, and is told how many blocks the session sent before.
        advances: those that arrived.
        blocks: those that were sent, as they went.
    """

    description: ModelDescription = field(default_factory=lambda: toy_description("toy-draft"))
    step_s: float = 0.0003
    break_after: int | None = None
    spoil: Callable[[types_pb2.Block, int], types_pb2.Block] = lambda block, sent: block
    sessions: int = 0
    openings: list[SessionOpen] = field(default_factory=list)
    advances: list[Advance] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    file = drafter_service_pb2.DESCRIPTOR

    def add_to(self, server: grpc.aio.Server) -> None:
        drafter_service_pb2_grpc.add_DrafterServiceServicer_to_server(self, server)

    async def Describe(self, request: object, context: object) -> types_pb2.ModelDescription:
        return convert.description_to_wire(self.description)

    async def Draft(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[drafter_service_pb2.DraftRequest],
        context: grpc.aio.ServicerContext[drafter_service_pb2.DraftRequest, drafter_service_pb2.DraftResponse],
    ) -> None:
        first = await anext(aiter(request_iterator))
        opening = convert.open_from_wire(first.open)
        self.openings.append(opening)
        session = ToyDraft(opening)
        reading = asyncio.create_task(self._read(request_iterator, session))
        self.sessions += 1
        sent = 0
        try:
            await context.write(
                drafter_service_pb2.DraftResponse(opened=types_pb2.SessionOpened(max_position=opening.max_position))
            )
            while True:
                block = await session.next_block(int(self.step_s * 1e9))
                await asyncio.sleep(self.step_s)
                if self.break_after is not None and sent >= self.break_after:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the toy breaks here")
                message = self.spoil(convert.block_to_wire(block), sent)
                self.blocks.append(message.SerializeToString())
                sent += 1
                await context.write(drafter_service_pb2.DraftResponse(blocks=[message]))
        finally:
            reading.cancel()
            self.sessions -= 1

    async def _read(self, requests: AsyncIterator[drafter_service_pb2.DraftRequest], session: ToyDraft) -> None:
        async for request in requests:
            advance = convert.advance_from_wire(request.advance)
            self.advances.append(advance)
            session.advance(advance)


@dataclass
class ToyService:
    """A toy on a real port that can be stopped, as by a crash, and started again on the same port."""

    servicer: ToyVerifier | ToyDrafter
    port: int = 0
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)
    _server: RunningServer | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._running = AsyncExitStack()
        self._server = await self._running.enter_async_context(
            running_server("127.0.0.1", self.port, self.servicer.file, self.servicer.add_to, grace_s=0.0)
        )
        self.port = self._server.port
        await self._server.set_serving(True)

    async def stop(self) -> None:
        """Break every session and close the port at once."""
        if self._server:
            await self._server.grpc_server.stop(None)
        await self._running.aclose()


@asynccontextmanager
async def serving(*servicers: ToyVerifier | ToyDrafter) -> AsyncIterator[list[ToyService]]:
    """Toys on loopback ports."""
    services = [ToyService(servicer) for servicer in servicers]
    for service in services:
        await service.start()
    try:
        yield services
    finally:
        for service in services:
            await service.stop()
