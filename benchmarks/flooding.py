"""`python -m benchmarks.flooding ADDRESS KIND SECONDS`: floods a verifier, for `benchmarks.flood`.

It prints JSON: how many messages it got rid of, how many sessions were refused, and with which words the last one was.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import grpc

from sybil_engine.core.ledger import Ledger
from sybil_engine.rpc.v1 import types_pb2 as types
from sybil_engine.rpc.v1 import verifier_service_pb2 as wire
from sybil_engine.rpc.v1.verifier_service_pb2_grpc import VerifierServiceStub
from sybil_engine.serving.channels import CHANNEL_OPTIONS

PROMPT = (5, 6, 7, 8)
KINDS = {"blocks": 100_000, "small": 8}
"""How many tokens each block of a flood has."""


@dataclass(slots=True)
class Flood:
    """What became of a flood.

    Attributes:
        messages: those that could be written.
        refusals: sessions that ended with INVALID_ARGUMENT.
        reason: why the last one of them did.
    """

    messages: int = 0
    refusals: int = 0
    reason: str = ""


async def flood_session(channel: grpc.aio.Channel, tokens: int, end_s: float, flood: Flood) -> None:
    """Write blocks of this many tokens into one session until it ends, or the time is over."""
    call = VerifierServiceStub(channel).Verify(None)
    plan = types.DraftPlan(speculation=types.SPECULATION_PIPELINED, budget=8, rows=1, hold_until=1)
    opening = types.SessionOpen(token_ids=PROMPT, prompt_tokens=len(PROMPT), max_position=1000, plan=plan)
    await call.write(wire.VerifyRequest(open=opening))
    # Legal, though of no use once something is committed.
    fingerprint = Ledger(PROMPT, len(PROMPT)).fingerprint(len(PROMPT))
    block = types.Block(
        position=len(PROMPT), prefix_fingerprint=fingerprint, token_ids=[9] * tokens, origin=types.BLOCK_ORIGIN_TRUNK
    )
    reading = asyncio.create_task(_read(call, flood))
    try:
        while time.monotonic() < end_s and not reading.done():
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + end_s - time.monotonic()):
                await call.write(wire.VerifyRequest(blocks=[block]))
            flood.messages += 1
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
        pass  # the reader is told why
    finally:
        if time.monotonic() >= end_s:
            call.cancel()
        await asyncio.wait((reading,))


async def _read(call: "grpc.aio.StreamStreamCall[wire.VerifyRequest, wire.VerifyResponse]", flood: Flood) -> None:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        # If the status overtakes a message that is being written, gRPC replaces it.
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            flood.refusals += 1
            flood.reason = error.details() or ""


async def run(address: str, tokens: int, seconds: float) -> Flood:
    """Flood one session after the other."""
    flood, end_s = Flood(), time.monotonic() + seconds
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        while time.monotonic() < end_s:
            await flood_session(channel, tokens, end_s, flood)
    return flood


def main(argv: Sequence[str]) -> int:
    address, kind, seconds = argv
    print(json.dumps(asdict(asyncio.run(run(address, KINDS[kind], float(seconds))))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
