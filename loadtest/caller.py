"""Sends one request and notes when its tokens come."""

import time
from typing import TYPE_CHECKING

import grpc

from loadtest.record import Arrival, RequestRecord, Status
from loadtest.segment import Planned
from sybil_engine.core.completion import Ending, Usage
from sybil_engine.serving.convert_completion import delta_from_wire, request_to_wire

if TYPE_CHECKING:
    from loadtest.counters import Counters
    from sybil_engine.rpc.v1 import generation_service_pb2 as wire
    from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

_STATUSES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Status.REFUSED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Status.LATE,
}


class Call:
    """A request on its way.

    Args:
        due_ns: when it should be sent, by the monotonic clock.
    """

    def __init__(self, planned: Planned, due_ns: int, counters: "Counters") -> None:
        self._planned, self._due_ns, self._counters = planned, due_ns, counters
        self._arrivals: list[Arrival] = []
        self._token_ids: list[int] = []
        self._ending: Ending | None = None
        self.lost = False

    async def run(self, stub: "GenerationServiceAsyncStub", deadline_s: float | None) -> RequestRecord:
        """Send it and read its stream to the end."""
        self._counters.add("running")
        call = stub.Generate(request_to_wire(self._planned.request), timeout=deadline_s)
        error = ""
        try:
            status = await self._read(call)
        except grpc.aio.AioRpcError as failure:
            self.lost = failure.code() is grpc.StatusCode.UNAVAILABLE
            status = _STATUSES.get(failure.code(), Status.FAILED)
            error = f"{failure.code().name}: {failure.details()}"
        finally:
            call.cancel()
        record = self._record(status, error)
        self._counters.add("running", -1)
        self._counters.add(status.value)
        return record

    async def _read(self, call: "grpc.aio.UnaryStreamCall[wire.GenerateRequest, wire.GenerateResponse]") -> Status:
        leave_after = self._planned.leave_after_tokens
        async for response in call:
            now_ns = time.monotonic_ns()
            if response.tokens:
                self._count(now_ns, [token.token_id for token in response.tokens])
            if response.HasField("completion"):
                self._ending = delta_from_wire(response).ending
            if leave_after is not None and len(self._token_ids) >= leave_after and self._ending is None:
                return Status.CANCELLED
        return Status.COMPLETED if self._ending else Status.FAILED

    def _count(self, now_ns: int, token_ids: list[int]) -> None:
        if not self._arrivals:
            self._counters.add("first_tokens")
            self._counters.add("ttft_ns", now_ns - self._due_ns)
        self._arrivals.append((now_ns, len(token_ids)))
        self._token_ids += token_ids
        self._counters.add("tokens", len(token_ids))

    def _record(self, status: Status, error: str) -> RequestRecord:
        ending = self._ending
        return RequestRecord(
            index=self._planned.index,
            due_ns=self._due_ns,
            end_ns=time.monotonic_ns(),
            status=status,
            arrivals=tuple(self._arrivals),
            token_ids=tuple(self._token_ids),
            error=error or ("" if ending or status is Status.CANCELLED else "the stream ended without its usage"),
            usage=ending.usage if ending else Usage(),
            passes={way.value: passes for way, passes in ending.passes.items()} if ending else {},
            reason=ending.reason if ending else "",
        )
