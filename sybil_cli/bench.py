"""`sybil bench`: measures every kind of speculation, and peers, in one run."""

import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.settings import BenchSettings
from sybil_cli.exits import FAILURE, SUCCESS
from sybil_cli.options import forwarding
from sybil_cli.running import run
from sybil_engine import settings

if TYPE_CHECKING:
    from benchmarks.plan import Plan

_FILE_COLUMNS = 160


@forwarding("bench")
def bench(argv: tuple[str, ...]) -> int:
    """Measure every kind of speculation, and peers, in one run: docs/benchmarks.md says how to read what it prints."""
    chosen = settings.parse(BenchSettings, argv, os.environ, "sybil bench")
    # Imported after the settings are read: a wrong flag is reported at once.
    from benchmarks.plan import Plan

    plan = Plan.of(chosen)
    # Tables keep their columns in a file or a pipe.
    output = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    return run(_bench(plan, output, Console(stderr=True, highlight=False)))


async def _bench(plan: "Plan", output: Console, remarks: Console) -> int:
    # Imports gRPC and tokenizers, which bad settings do not need.
    from benchmarks.bench import bench as measure

    same = await measure(plan, output, remarks)
    return SUCCESS if same or plan.settings.numerics == "fast" else FAILURE
