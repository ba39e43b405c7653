"""Measure this machine: `python -m benchmarks --help`."""

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from tokenizers import Tokenizer

from benchmarks.arms import Arm, EngineArm
from benchmarks.report import arm_figures, machine, ratios, table
from benchmarks.run import Task, count_differences, run_interleaved
from benchmarks.settings import BenchSettings
from coordinator.fleet import running_fleet
from coordinator.settings import PlaceSettings
from sybil_engine.cli.prompts import built_in_prompts, mixed
from sybil_engine.errors import SybilError
from sybil_engine.settings import parse_or_exit
from sybil_engine.types import SamplingParams, Speculation

PROGRAM = "python -m benchmarks"


async def run(settings: BenchSettings, console: Console) -> dict[str, Any]:
    """Measure and print; returns every figure."""
    from benchmarks.peers import load_peers
    from sybil_engine.models.loading import find_folder

    target, draft = find_folder(settings.target), find_folder(settings.draft)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    prompts = mixed(built_in_prompts(), settings.prompts)
    tasks = [
        Task(tuple(tokenizer.encode(prompt.prompt).ids), seed=1000 * repeat + number)
        for repeat in range(settings.repeat)
        for number, prompt in enumerate(prompts)
    ]
    placed = PlaceSettings(
        port=0,
        target=settings.target,
        draft=settings.draft,
        dtype=settings.dtype,
        target_threads=settings.target_threads,
        draft_threads=settings.draft_threads,
    )
    figures: dict[str, Any] = {"settings": asdict(settings), "machine": machine(), "temperatures": {}}
    with console.status("starting") as status:
        async with (
            running_fleet(placed, status.update) as fleet,
            grpc.aio.insecure_channel(fleet.address) as channel,
        ):
            arms: list[Arm] = [EngineArm(channel, Speculation(name), settings.window) for name in settings.arms]
            peers = tuple(peer for peer in settings.peers if peer != "none")
            if peers:
                status.update("loading transformers")
                arms += load_peers(peers, target, draft, settings.dtype)
            for temperature in map(float, settings.temperatures):
                sampling = SamplingParams(temperature=temperature)
                measured = await run_interleaved(arms, tasks, sampling, settings.max_tokens, status.update)
                differences = count_differences(measured, settings.arms[0], settings.arms)
                console.print(table(temperature, measured, against=(settings.arms[0], *peers)))
                console.print(
                    f"completions of our arms that differ from one another: {differences} of "
                    f"{len(tasks) * (len(settings.arms) - 1)}\n"
                )
                figures["temperatures"][str(temperature)] = {
                    "arms": {name: arm_figures(measurements) for name, measurements in measured.items()},
                    "ratios": {name: asdict(interval) for name, interval in ratios(measured).items()},
                    "differences": differences,
                }
    return figures


def main(argv: list[str]) -> int:
    settings = parse_or_exit(BenchSettings, argv, os.environ, "SYBIL_BENCH_", PROGRAM)
    try:
        figures = asyncio.run(run(settings, Console()))
    except SybilError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 1
    if settings.json:
        Path(settings.json).write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
