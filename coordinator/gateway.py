"""What clients call: checks a request, waits for a place, and streams its completion."""

import asyncio
import logging
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby

import grpc

from coordinator.admission import Admission
from coordinator.completion import Completion, Delta
from coordinator.patience import Patience
from coordinator.pipeline import Pipeline
from coordinator.request import Request, read_request
from coordinator.routing import Router, Target
from coordinator.settings import ServingSettings
from coordinator.usage import Meter
from sybil_engine.core.errors import SybilError
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc
from sybil_engine.serving import convert
from sybil_engine.serving.outbox import Outbox
from sybil_engine.serving.server import status_code

logger = logging.getLogger(__name__)


class Gateway(generation_service_pb2_grpc.GenerationServiceServicer):
    """Implements GenerationService."""

    def __init__(self, router: Router, admission: Admission, settings: ServingSettings) -> None:
        self._router = router
        self._admission = admission
        self._settings = settings
        self._patience = Patience(reopen_s=settings.reopen_s)

    # Writing to the context instead of yielding: a client that leaves cancels this very coroutine, wherever it waits.
    async def Generate(  # type: ignore[override]
        self,
        request: wire.GenerateRequest,
        context: grpc.aio.ServicerContext[wire.GenerateRequest, wire.GenerateResponse],
    ) -> None:
        try:
            await self._generate(request, context)
        except SybilError as error:
            await context.abort(status_code(error), str(error))

    async def DescribePair(
        self,
        request: wire.DescribePairRequest,
        context: grpc.aio.ServicerContext[wire.DescribePairRequest, wire.DescribePairResponse],
    ) -> wire.DescribePairResponse:
        try:
            target = self._router.target.description
        except SybilError as error:
            await context.abort(status_code(error), str(error))
        draft = self._router.draft
        return wire.DescribePairResponse(
            target=convert.description_to_wire(target), draft=convert.description_to_wire(draft) if draft else None
        )

    async def _generate(
        self,
        message: wire.GenerateRequest,
        context: grpc.aio.ServicerContext[wire.GenerateRequest, wire.GenerateResponse],
    ) -> None:
        meter = Meter()
        target = self._router.target
        request = await read_request(message, target, self._settings)
        outbox: Outbox[Delta] = Outbox(asyncio.get_running_loop())
        # The session goes on at its own speed, and ends, however slowly the client reads.
        session = asyncio.create_task(self._run(request, target, meter, outbox))
        try:
            finished = False
            while not finished:
                # Joined as far as their tokens have one origin: a client can tell which text was drafted.
                for _, deltas in groupby(await outbox.drain(), key=lambda delta: delta.origins[:1]):
                    delta = Delta.joined(tuple(deltas))
                    finished = delta.finish_reason is not None
                    await context.write(_response(delta, request, meter))
        finally:
            session.cancel()
            await asyncio.wait((session,))

    async def _run(self, request: Request, target: Target, meter: Meter, outbox: Outbox[Delta]) -> None:
        """Run a session and post what the client gets, the last of it with a finish reason, or an error."""
        completion = Completion(
            target.tokenizer.detokenizer(request.prompt), request.stops, request.opening.stop_token_ids
        )
        ended = completion.resume(request.resumed) or (completion.end() if request.complete else None)
        if ended:
            outbox.put(ended)
            return
        try:
            async with self._admission.place(), aclosing(self._pipeline(request, target, meter).run()) as session:
                async for progress in session:
                    for run in progress.runs():
                        delta = completion.take(run)
                        meter.delivered(len(delta.token_ids))
                        outbox.put(delta)
                        if delta.finish_reason:
                            return
        except SybilError as error:
            outbox.put(error)
        except Exception as error:
            logger.exception("session %s failed", request.opening.session_id)
            outbox.put(error)
            raise

    def _pipeline(self, request: Request, target: Target, meter: Meter) -> Pipeline:
        return Pipeline(
            replace(request.opening, shares_processor=self._router.shares_processors),
            request.policy,
            partial(self._router.verifier, target),
            self._router.drafter,
            meter,
            self._patience,
        )


def _response(delta: Delta, request: Request, meter: Meter) -> wire.GenerateResponse:
    response = wire.GenerateResponse(
        text=delta.text,
        token_ids=delta.token_ids,
        origins=convert.token_origins_to_wire(delta.origins),
        logprobs=delta.logprobs,
    )
    if delta.finish_reason:
        usage = wire.Usage(prompt_tokens=request.opening.prompt_tokens, **asdict(meter.usage()))
        response.completion.CopyFrom(
            wire.Completion(
                finish_reason=convert.finish_reason_to_wire(delta.finish_reason),
                seed=request.opening.seed,
                usage=usage,
                speculation=convert.speculation_to_wire(request.policy.speculation),
                reason=meter.reason,
                passes=[
                    wire.PassCount(speculation=convert.speculation_to_wire(speculation), passes=passes)
                    for speculation, passes in meter.passes.items()
                ],
            )
        )
    return response
