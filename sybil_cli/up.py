"""`sybil up`: drafter, verifier and coordinator on this machine, until Ctrl-C or SIGTERM."""

import asyncio
import os
from collections.abc import Mapping
from typing import Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console

from coordinator.settings import PlaceSettings
from sybil_cli.exits import SUCCESS
from sybil_cli.options import forwarding
from sybil_cli.printing import described
from sybil_cli.program import program
from sybil_cli.progress import Progress
from sybil_cli.running import run
from sybil_engine import settings
from sybil_engine.client import connected
from sybil_engine.models.presets import pair_of

# These have the same prefix, but belong to other programs.
_OTHERS = (
    "SYBIL_ADDRESS",
    "SYBIL_DRAFTER_",
    "SYBIL_VERIFIER_",
    "SYBIL_COORDINATOR_",
    "SYBIL_BENCH_",
    "SYBIL_LOADTEST_",
)


class UpSettings(PlaceSettings):
    """Run drafter, verifier and coordinator on this machine, under Ray, until Ctrl-C or SIGTERM."""

    model_config = SettingsConfigDict(env_prefix="SYBIL_")

    preset: Literal["embedded", "gpt2"] | None = Field(
        default=None, description="a pair of models by name, embedded if none is named"
    )
    target: str = Field(default="", description="instead of the preset's: a folder or a hub id")
    draft: str = Field(
        default="",
        description="instead of the preset's: a folder, a hub id, target or none; a type may follow, as in target:int8",
    )

    def placed(self) -> PlaceSettings:
        """The same fleet with both models named."""
        pair = pair_of(self.preset, self.target, self.draft, self.draft_layers, self.draft_dtype)
        values = self.model_dump(include=set(PlaceSettings.model_fields))
        return PlaceSettings(**{**values, "target": pair.target, "draft": pair.draft})


@forwarding("up")
def up(argv: tuple[str, ...]) -> int:
    """Run drafter, verifier and coordinator on this machine until Ctrl-C or SIGTERM."""
    placed = settings.parse(UpSettings, argv, _ours(os.environ), "sybil up").placed()
    return run(_up(placed, Console(highlight=False), Progress()))


async def _up(placed: PlaceSettings, output: Console, progress: Progress) -> int:
    # Imports Ray, which `sybil --help` does not need.
    from sybil_cli.fleet import placed_fleet

    output.print("Starting drafter, verifier and coordinator on this machine, under Ray.")
    try:
        async with placed_fleet(placed, progress) as fleet:
            try:
                await _announce(fleet.address, placed, output)
                error = await fleet.broken()
                raise click.ClickException(f"the fleet cannot go on: {error}; start it again with `{program()} up`")
            except asyncio.CancelledError:
                output.print(f"Running completions have {placed.grace_s:g} s to end.")
                raise
    except asyncio.CancelledError:
        # Ctrl-C or SIGTERM is the normal end of this command.
        output.print("Stopped.")
        return SUCCESS


async def _announce(address: str, placed: PlaceSettings, output: Console) -> None:
    async with connected(address) as client:
        served = await client.describe()
    output.print(f"Ready at {address}: {described(served)}", soft_wrap=True)
    output.print(f"Talk to it:  {program()} generate 'def fibonacci(n):' --address {address}", soft_wrap=True)
    if placed.metrics_port:
        ports = (f"{placed.process_metrics_port(number)} ({name})" for number, name in enumerate(placed.processes))
        output.print(f"Metrics, at /metrics of each port: {', '.join(ports)}", soft_wrap=True)
    output.print("Ctrl-C stops it.")


def _ours(environ: Mapping[str, str]) -> dict[str, str]:
    known = {UpSettings.variable(name) for name in UpSettings.model_fields}
    return {name: value for name, value in environ.items() if name in known or not name.startswith(_OTHERS)}
