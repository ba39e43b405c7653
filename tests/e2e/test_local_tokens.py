"""The engine in one process commits the tokens that the services commit; `--full` compares all prompts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from benchmarks.plan import Plan
from benchmarks.prompts import read_prompts
from benchmarks.services import running_services
from benchmarks.settings import BenchSettings
from sybil_engine.client import connected
from sybil_engine.core.completion import Completion, Delta
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_engine.settings import parse
from sybil_local import LocalEngine

PROMPTS = 40
SOME_PROMPTS = 2
TOKENS = 128
Generate = Callable[[GenerationRequest], AsyncIterator[Delta]]


@dataclass(frozen=True)
class Compared:
    local: list[Completion]
    services: list[Completion]


def requests(count: int) -> list[GenerationRequest]:
    """Every prompt at each temperature; the ways to speculate take turns."""
    ways = [each for each in Speculation if each is not Speculation.OFF]
    return [
        GenerationRequest(
            prompt.prompt,
            SamplingParams(temperature),
            seed=number,
            max_tokens=TOKENS,
            speculation=ways[(2 * place + number) % len(ways)],
        )
        for place, temperature in enumerate((0.0, 0.8))
        for number, prompt in enumerate(read_prompts("", count))
    ]


async def compared(plan: Plan, count: int) -> Compared:
    async def completions(generate: Generate) -> list[Completion]:
        return [
            Completion.joined([delta async for delta in generate(request)])  # one after the other
            for request in requests(count)
        ]

    with await asyncio.to_thread(LocalEngine.from_settings, *plan.service_settings) as engine:
        local = await completions(engine.arun)
    async with (
        running_services(plan, lambda _: None) as running,
        connected(running.coordinator) as client,
    ):
        return Compared(local, await completions(client.generate))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_in_one_process_commits_the_tokens_of_the_services(
    dtype: str, request: pytest.FixtureRequest
) -> None:
    count = PROMPTS if request.config.getoption("--full") else SOME_PROMPTS
    settings = parse(BenchSettings, ("--env", "native", "--dtype", dtype), {})
    done = asyncio.run(compared(Plan.of(settings), count))
    assert [each.token_ids for each in done.local] == [each.token_ids for each in done.services]
    assert len(done.local) == 2 * count
    assert sum(len(each.token_ids) for each in done.local) > 0.8 * TOKENS * len(done.local)
    assert all(each.ending.usage.accepted_tokens for each in done.services), "drafts that never help prove nothing"
