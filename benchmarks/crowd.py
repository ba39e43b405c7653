"""`python -m benchmarks.crowd`: many more sessions open at once than the KV caches hold.

Every request must get the answer that it gets on a quiet engine, without an error, and all three services must answer
health checks all the while. `--cache-memory` of both models is computed from the number of sessions that are to fit.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from statistics import mean

import torch
from transformers import AutoConfig

from benchmarks.prompts import read_prompts
from benchmarks.stack import RunningStack, running_stack
from coordinator.tokenizer import Tokenizer
from sybil_engine.client import GenerationClient, connected
from sybil_engine.core.completion import Completion
from sybil_engine.core.errors import SybilError
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_engine.models.cache import CellShape
from sybil_engine.models.finding import find_folder
from sybil_engine.models.loading import tokenizer_json
from sybil_engine.models.pages import PAGE_CELLS

MOST_CHECK_MS = 50.0
_QUIET_AT_ONCE = 4
# Windows and hedges need cells too.
_SPARE_CELLS = 2 * PAGE_CELLS


def cache_memory(model: str, requests: Sequence[GenerationRequest], fit: int) -> str:
    """How much memory holds this many of these requests, in bytes."""
    config, tokenizer = AutoConfig.from_pretrained(find_folder(model)), Tokenizer(tokenizer_json(model))
    tokens = [len(tokenizer.encode(str(each.prompt))) + (each.max_tokens or 0) for each in requests]
    pages = fit * mean(math.ceil((each + _SPARE_CELLS) / PAGE_CELLS) for each in tokens)
    shape = CellShape(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, config.head_dim)
    # One is for padding.
    return str(math.ceil(pages + 1) * shape.page_bytes(torch.float32))


async def answer(client: GenerationClient, request: GenerationRequest) -> tuple[int, ...] | str:
    """A request's tokens, or its error in words."""
    try:
        return Completion.joined([delta async for delta in client.generate(request)]).token_ids
    except SybilError as error:
        return str(error)


async def quiet_answers(client: GenerationClient, requests: Sequence[GenerationRequest]) -> list[tuple[int, ...] | str]:
    """The answers when only a few ask."""
    places = asyncio.Semaphore(_QUIET_AT_ONCE)

    async def ask(request: GenerationRequest) -> tuple[int, ...] | str:
        async with places:
            return await answer(client, request)

    return list(await asyncio.gather(*map(ask, requests)))


@asynccontextmanager
async def health_checks(stack: RunningStack) -> AsyncIterator[dict[str, dict[str, float]]]:
    """Ask all services for their health while the block runs; yields what came of it, filled in at its end."""
    addresses = [each.address for each in stack.processes]
    command = (sys.executable, "-m", "benchmarks.checking", *addresses)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    delays: dict[str, dict[str, float]] = {}
    try:
        yield delays
    finally:
        printed, _ = await process.communicate(b"")
        said = json.loads(printed)
        delays.update({each.kind: said[each.address] for each in stack.processes})


@asynccontextmanager
async def most_sessions(stack: RunningStack) -> AsyncIterator[list[int]]:
    """Count the verifier's open sessions while the block runs."""
    seen = [0]

    async def count() -> None:
        while True:
            seen.append((await stack.verifier.footprint()).sessions)
            await asyncio.sleep(0.2)

    counting = asyncio.create_task(count())
    try:
        yield seen
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting


async def run(arguments: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    prompts = read_prompts("", arguments.sessions)
    requests = [
        GenerationRequest(
            # No two begin alike, so they share no page.
            f"# {number}\n{prompts[number % len(prompts)].prompt}",
            sampling=SamplingParams(temperature=0.8),
            seed=number,
            max_tokens=arguments.max_tokens,
            ignore_end_tokens=True,
            speculation=Speculation(arguments.speculation),
        )
        for number in range(arguments.sessions)
    ]
    flags = [
        ("--max-sessions", str(arguments.sessions), "--cache-memory", cache_memory(model, requests, arguments.fit))
        for model in (EMBEDDED_TARGET, EMBEDDED_DRAFT)
    ]
    async with running_stack(*flags) as stack, connected(stack.coordinator.address) as client:
        start_s = time.perf_counter()
        quiet = await quiet_answers(client, requests)
        print(f"quiet: {len(requests)} requests, {_QUIET_AT_ONCE} at once, in {time.perf_counter() - start_s:.0f} s")
        async with health_checks(stack) as delays, most_sessions(stack) as seen:
            start_s = time.perf_counter()
            answers = await asyncio.gather(*(answer(client, each) for each in requests))
            took_s = time.perf_counter() - start_s
        evicted = await stack.verifier.value("num_preemptions_total")
    errors = [each for each in answers if isinstance(each, str)]
    differing = sum(one != other for one, other in zip(answers, quiet, strict=True))
    print(
        f"crowd: {len(requests)} requests in {took_s:.0f} s, at most {max(seen)} sessions open, {evicted:.0f} evictions"
    )
    print(f"{len(errors)} errors{': ' + errors[0] if errors else ''}; {differing} answers differ from quiet ones")
    for kind, delay in delays.items():
        print(f"health checks of the {kind}: p99 {delay['p99_ms']:.0f} ms, longest {delay['longest_ms']:.0f} ms")
    met = not errors and not differing and all(each["longest_ms"] <= MOST_CHECK_MS for each in delays.values())
    print("all goals met" if met else "a goal was missed")
    return 0 if met else 1


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sessions", type=int, default=256, help="open at once")
    parser.add_argument("--fit", type=int, default=24, help="of these, how many the caches hold")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--speculation", choices=[each.value for each in Speculation], default="auto")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.fit <= arguments.sessions or arguments.max_tokens < 1:
        parser.error("--fit must be between 1 and --sessions, and --max-tokens at least 1")
    return asyncio.run(run(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
