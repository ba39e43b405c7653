"""The same generation core, called directly and through its gRPC port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

import grpc
import pytest

from coordinator.api.grpc import GenerationServicer
from coordinator.generation import Generation
from sybil_engine.core.completion import Delta, Usage
from sybil_engine.core.types import Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc
from sybil_engine.serving import convert
from sybil_engine.serving.convert_completion import delta_from_wire
from tests.unit.coordinator.toy import Scene, asynchronous


@asynccontextmanager
async def port_of(generation: Generation) -> AsyncIterator[Any]:
    """A client of this core's gRPC adapter."""
    router: Any = None
    server = grpc.aio.server()
    servicer = GenerationServicer(generation, router, slow_reader_s=5.0)
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield generation_service_pb2_grpc.GenerationServiceStub(channel)
    finally:
        await server.stop(None)


def without_times(delta: Delta) -> Delta:
    """Counts are compared, times never; nor what was drafted, for the last of it may come too late to be counted."""
    if not delta.ending:
        return delta
    counts = {name: count for name, count in asdict(delta.ending.usage).items() if not name.endswith("_ns")}
    usage = replace(Usage(), **counts | {"drafted_tokens": 0})
    return replace(delta, ending=replace(delta.ending, usage=usage))


@pytest.mark.parametrize("stop", [[], ["no such text"]])
@pytest.mark.parametrize("speculation", [Speculation.OFF, Speculation.LOCKSTEP])
@asynchronous
async def test_the_deltas_are_the_same_through_the_port(speculation: Speculation, stop: list[str]) -> None:
    here = Scene()
    direct = await here.deltas(speculation=speculation, logprobs=True, stop=stop)
    message = wire.GenerateRequest(
        token_ids=wire.TokenIds(ids=here.PROMPT),
        seed=here.SEED,
        max_tokens=here.TOKENS,
        speculation=convert.ENUM_TO_WIRE[speculation],
        logprobs=True,
        stop=stop,
    )
    async with port_of(here.generation) as stub:
        through = [delta_from_wire(response) async for response in stub.Generate(message)]
    assert [without_times(delta) for delta in through] == [without_times(delta) for delta in direct]
    assert through[-1].ending
    assert here.idle
