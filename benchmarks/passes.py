"""`python -m benchmarks.passes`: what a pass takes with each setting that changes its speed.

Weights' types and processor threads take turns within one run, once on a quiet machine and once beside a process that
keeps a core busy, as another service does. Fast numerics: exact mode would pad some types' passes and not others'.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from drafter_service.settings import DrafterSettings
from sybil_engine.models.hosting import host_model
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import Runner
from sybil_engine.serving.service_settings import Dtype, ServiceSettings
from verifier_service.settings import VerifierSettings

ROWS = (1, 4, 6, 8, 16)
POSITION = 256
_ROUNDS = 15
_WARM_UPS = 3
_BUSY = "while True: sum(range(10_000))"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model.

    Attributes:
        slot: taken.
    """

    name: str
    threads: int
    runner: Runner
    slot: int

    def time_s(self, rows: int) -> float:
        """Seconds that one pass takes."""
        torch.set_num_threads(self.threads)
        batch = [Rows(self.slot, POSITION, tuple(range(rows)))]
        start = time.perf_counter()
        self.runner.forward(batch)
        return time.perf_counter() - start


def variants_of(settings: ServiceSettings, dtypes: Sequence[Dtype], thread_counts: Sequence[int]) -> Iterator[Variant]:
    """Load a model with each type, once, and run it with each number of threads."""
    for dtype in dtypes:
        runner, _ = host_model(settings.model_copy(update={"dtype": dtype, "numerics": "fast", "threads": 1}))
        slot = runner.allocate()
        for threads in thread_counts:
            yield Variant(f"{dtype}, {threads} thread{'s' if threads > 1 else ''}", threads, runner, slot)


def median_times_ms(variants: Sequence[Variant], rows: Sequence[int]) -> dict[tuple[str, int], float]:
    """Medians by variant and rows, all of them in turns."""
    times: dict[tuple[str, int], list[float]] = {}
    for round_ in range(_WARM_UPS + _ROUNDS):
        for variant in variants:
            for count in rows:
                time_s = variant.time_s(count)
                if round_ >= _WARM_UPS:
                    times.setdefault((variant.name, count), []).append(time_s * 1e3)
    return {key: median(each) for key, each in times.items()}


def times_table(title: str, variants: Sequence[Variant], rows: Sequence[int]) -> Table:
    """A variant a row: its times alone, and beside a busy core."""
    alone = median_times_ms(variants, rows)
    with _busy_core():
        beside = median_times_ms(variants, rows)
    table = Table(title=f"{title}: ms a pass, alone / beside a busy core", title_justify="left")
    table.add_column("weights, threads")
    for count in rows:
        table.add_column(f"{count} row{'s' if count > 1 else ''}", justify="right")
    for variant in variants:
        cells = (f"{alone[variant.name, count]:.2f} / {beside[variant.name, count]:.2f}" for count in rows)
        table.add_row(variant.name, *cells)
    return table


@contextmanager
def _busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _threads(text: str) -> int:
    count = int(text)
    if not 1 <= count <= (os.cpu_count() or 1):
        raise argparse.ArgumentTypeError(f"{count} is not between 1 and this machine's {os.cpu_count()} processors")
    return count


def main() -> None:
    """Print one table for each of the two models."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description=__doc__)
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=get_args(Dtype),
        default=["float32", "bfloat16", "int8"],
        help="weights' types (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", nargs="+", type=_threads, default=[1, 2], help="processor threads of a pass (default: %(default)s)"
    )
    arguments = parser.parse_args()
    console = Console(width=120)
    for title, settings in (("target", VerifierSettings()), ("drafter", DrafterSettings())):
        console.print(times_table(title, list(variants_of(settings, arguments.dtypes, arguments.threads)), ROWS))


if __name__ == "__main__":
    main()
