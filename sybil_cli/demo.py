"""`sybil demo`: starts everything, completes real Python code, says how fast and how exact."""

import time
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sybil_cli.comparison import ARMS, Comparison
from sybil_cli.exits import FAILURE, SUCCESS
from sybil_cli.generate import Completer, complete
from sybil_cli.options import model_options, pair_from
from sybil_cli.parameters import DEFAULT_COORDINATOR
from sybil_cli.printing import Printer, described, number, printer_for
from sybil_cli.program import program
from sybil_cli.progress import Progress
from sybil_cli.running import run
from sybil_engine.client import GenerationClient, connected
from sybil_engine.core.completion import Completion
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_engine.models.presets import Pair
from sybil_engine.prompts import Prompt, built_in_prompts, mixed

_SEED = 20
_SHOWN_TOKENS = 96
_COMPARED_TOKENS = 64
_PROMPTS = 5
_TEMPERATURES = (0.0, 0.8)
# On a slow machine fewer completions are compared, so that the user need not wait.
_PATIENCE_S = 45.0


@click.command()
@model_options
def demo(**options: Any) -> int:
    """Complete real Python code in this process; then start drafter, verifier and coordinator on this machine, complete
    more with and without speculation, and say how fast and how exact that was."""
    return run(_demo(pair_from(options), Console(highlight=False), Console(stderr=True, highlight=False)))


async def _demo(pair: Pair, output: Console, remarks: Console) -> int:
    # Imports torch and Ray, which `sybil --help` does not need.
    from coordinator.settings import PlaceSettings
    from sybil_cli.fleet import placed_fleet
    from sybil_cli.local import local_engine

    progress = Progress(remarks)
    prompts = built_in_prompts()
    async with local_engine(pair, progress) as engine:
        await _show(engine, prompts[0], output, progress)
    output.print(_title("Starting drafter, verifier and coordinator on this machine, under Ray"))
    started_s = time.monotonic()
    settings = PlaceSettings(port=0, target=pair.target, draft=pair.draft, draft_layers=pair.draft_layers)
    async with placed_fleet(settings, progress) as fleet, connected(fleet.address) as client:
        ready_s = time.monotonic() - started_s
        output.print(f"Ready after {ready_s:.0f} s: {described(await client.describe())}", soft_wrap=True)
        comparison = await _compare(client, mixed(prompts, _PROMPTS), progress)
        _report(comparison, output)
    output.print(_next_steps(), soft_wrap=True)
    return SUCCESS if comparison.differences == 0 else FAILURE


async def _show(engine: Completer, prompt: Prompt, output: Console, progress: Progress) -> None:
    output.print(_title(f"One completion of code from `{prompt.module}`, by the engine in this process"))
    printer = printer_for(output, output, as_json=False, with_prompt=True)
    await complete(engine, _request(prompt, Speculation.AUTO, 0.0, _SHOWN_TOKENS), printer, progress)


async def _compare(client: GenerationClient, prompts: list[Prompt], progress: Progress) -> Comparison:
    comparison = Comparison()
    until_s = time.monotonic() + _PATIENCE_S
    rounds = [(prompt, temperature) for prompt in prompts for temperature in _TEMPERATURES]
    with progress.waiting("the comparison"):
        for round_, (prompt, temperature) in enumerate(rounds):
            if round_ >= len(_TEMPERATURES) and time.monotonic() > until_s:
                break
            progress.say(
                f"comparing, {round_ + 1} of {len(rounds)}: code from {prompt.module} at temperature {temperature:g}"
            )
            completions: dict[Speculation, Completion] = {}
            # Another arm goes first each time, so that all find the same caches on average.
            first = round_ % len(ARMS)
            for arm in ARMS[first:] + ARMS[:first]:
                request = _request(prompt, arm, temperature, _COMPARED_TOKENS)
                completions[arm] = await complete(client, request, Printer(), progress)
            comparison.add(completions)
    return comparison


def _request(prompt: Prompt, arm: Speculation, temperature: float, max_tokens: int) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt.prompt,
        sampling=SamplingParams(temperature=temperature),
        seed=_SEED,
        max_tokens=max_tokens,
        speculation=arm,
    )


def _report(comparison: Comparison, output: Console) -> None:
    output.print(_title(f"{comparison.rounds} completions with each kind of speculation, interleaved, same seeds"))
    table = Table("speculation", box=None, header_style="bold", pad_edge=False)
    for heading in ("tokens/s", "ratio to off", "acceptance rate", "tokens per pass"):
        table.add_column(heading, justify="right")
    for arm in ARMS:
        stats = comparison.stats(arm)
        table.add_row(
            arm.value,
            number(stats.tokens_per_second, ".1f"),
            number(comparison.speedup(arm), ".2f"),
            number(stats.acceptance_rate, ".2f"),
            number(stats.tokens_per_pass, ".2f"),
        )
    output.print(table)
    exact = comparison.differences == 0
    output.print(
        Text(
            f"How exact: {comparison.compared_tokens:,} tokens compared with those of `off`, "
            f"{comparison.differences:,} differences.",
            style="bold green" if exact else "bold red",
        )
    )
    if not exact:
        output.print("That must not happen: please report it, with this output and the processor's name.")


def _next_steps() -> Text:
    sybil = program()
    return Text(
        f"""
Try next:
  {sybil} generate 'def fibonacci(n):' --temperature 0.8
      one completion, with the whole engine in one process
  {sybil} up
      keep a fleet running; then, in another terminal:
  {sybil} generate - --address {DEFAULT_COORDINATOR} < some.py
      go on with a file, as often as you like
  {sybil} demo --preset gpt2
      the same as this with GPT-2 Medium, which is downloaded once
"""
    )


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")
