"""Many long prompts beside running streams, on the embedded pair: no token changes, and who comes first is first."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sybil_engine.core.types import Speculation
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.rpc.v1.verifier_service_pb2 import VerifyRequest
from sybil_local import LocalEngine
from tests.contract.services import LIMIT_S, opening, running_verifier, verify

PROMPTS = 5
PROMPT_TOKENS = 200


def prompt_of(number: int, tokens: int = PROMPT_TOKENS) -> tuple[int, ...]:
    """One that begins like no other."""
    return tuple(3 + (number + 7 * position) % 900 for position in range(tokens))


class Session:
    """A session on a verifier, read to its end."""

    def __init__(self, stub: Any, asked: types_pb2.SessionOpen, first_tokens: list[int], number: int) -> None:
        self._call = stub.Verify(self._requests(asked))
        self._first_tokens = first_tokens
        self._number = number
        self.token_ids: list[int] = []
        self.begun = asyncio.Event()

    async def _requests(self, asked: types_pb2.SessionOpen) -> AsyncIterator[VerifyRequest]:
        yield VerifyRequest(open=asked)
        await asyncio.sleep(LIMIT_S)

    async def opened(self) -> None:
        assert (await anext(aiter(self._call))).HasField("opened")

    async def read(self) -> list[int]:
        async for response in self._call:
            if not self.token_ids:
                self._first_tokens.append(self._number)
                self.begun.set()
            self.token_ids += [token.token_id for token in response.commit.tokens]
        return self.token_ids


def test_prompts_beside_streams_get_their_first_tokens_in_the_order_of_arrival_and_the_same_tokens_as_alone() -> None:
    openings = [opening(prompt_of(number), tokens=6, plan=None) for number in range(PROMPTS)]
    openings[-1].priority = 1
    streams = [opening(prompt_of(50 + number, tokens=5), tokens=120, plan=None) for number in range(2)]

    async def run() -> tuple[list[list[int]], list[list[int]], list[int]]:
        first_tokens: list[int] = []
        exact = ("--numerics", "exact", "--max-sessions", str(PROMPTS + 2))
        async with running_verifier(*exact) as stub:
            sessions = [Session(stub, asked, first_tokens, -1) for asked in streams]
            reading = []
            for session in sessions:
                await session.opened()
                reading.append(asyncio.create_task(session.read()))
            for session in sessions:
                await session.begun.wait()
            for number, asked in enumerate(openings):
                sessions.append(Session(stub, asked, first_tokens, number))
                await sessions[-1].opened()
                reading.append(asyncio.create_task(sessions[-1].read()))
            together = await asyncio.wait_for(asyncio.gather(*reading), LIMIT_S)
        async with running_verifier(*exact) as stub:
            alone = [await asyncio.wait_for(verify(stub, asked), LIMIT_S) for asked in (*streams, *openings)]
        return together, alone, first_tokens

    together, alone, first_tokens = asyncio.run(run())
    assert together == alone
    assert [len(token_ids) for token_ids in alone] == [120] * 2 + [6] * PROMPTS
    order = first_tokens[2:]
    # The last one comes first, unless the first one was whole before it came.
    assert order in ([PROMPTS - 1, *range(PROMPTS - 1)], [0, PROMPTS - 1, *range(1, PROMPTS - 1)])


def test_in_every_way_to_speculate_prompts_beside_streams_change_no_token() -> None:
    ways = [each.value for each in Speculation]

    def asked(number: int) -> dict[str, Any]:
        temperature = 0.8 * (number % 2)
        tokens = 60 if number < len(ways) else 10
        return {"max_tokens": tokens, "seed": number, "temperature": temperature, "speculation": ways[number % 5]}

    def prompt(number: int) -> Sequence[int]:
        # Streams first, then prompts.
        return prompt_of(number, 5 if number < len(ways) else PROMPT_TOKENS)

    everyone = range(3 * len(ways))
    with LocalEngine(max_sessions=len(everyone), context_tokens=320, traced=False) as engine:
        with ThreadPoolExecutor(len(everyone)) as pool:
            running = []
            for number in everyone:
                running.append(pool.submit(engine.generate, prompt(number), **asked(number)))
                time.sleep(0.1 if number == len(ways) - 1 else 0.002)
            crowd = [each.result().token_ids for each in running]
        quiet = [engine.generate(prompt(number), **asked(number)).token_ids for number in everyone]
    assert crowd == quiet
