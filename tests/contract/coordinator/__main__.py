"""A toy verifier and a toy drafter as a process of their own: prints their addresses, and serves until it is ended.

python -m tests.contract.coordinator [the drafter's tokenizer fingerprint]
"""

import asyncio
import sys

from tests.contract.coordinator.services import ToyDrafter, ToyVerifier, serving
from tests.unit.coordinator.toy import toy_description


async def serve(fingerprint: str) -> None:
    verifier = ToyVerifier(toy_description(max_sessions=64), pass_s=0.02)
    drafter = ToyDrafter(toy_description("toy-draft", tokenizer_fingerprint=fingerprint, max_sessions=64))
    async with serving(verifier, drafter) as services:
        print(*(each.address for each in services), flush=True)
        await asyncio.Event().wait()


asyncio.run(serve(*sys.argv[1:] or ["toy"]))
