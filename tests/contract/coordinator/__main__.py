"""A toy verifier and a toy drafter as a process of their own: prints their addresses, and serves until it is ended.

python -m tests.contract.coordinator [the drafter's tokenizer fingerprint [sessions of the verifier]]

The verifier refuses sessions beyond its number with a status that ends a request.
"""

import asyncio
import sys

import grpc

from tests.contract.coordinator.services import ToyDrafter, ToyVerifier, serving
from tests.unit.coordinator.toy import toy_description


async def serve(fingerprint: str = "toy", sessions: str = "64") -> None:
    verifier = ToyVerifier(
        toy_description(max_sessions=int(sessions)), pass_s=0.02, full_with=grpc.StatusCode.INVALID_ARGUMENT
    )
    drafter = ToyDrafter(toy_description("toy-draft", tokenizer_fingerprint=fingerprint, max_sessions=64))
    async with serving(verifier, drafter) as services:
        print(*(each.address for each in services), flush=True)
        await asyncio.Event().wait()


asyncio.run(serve(*sys.argv[1:]))
