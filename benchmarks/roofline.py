"""`python -m benchmarks.roofline`: the time of a pass, the least possible time, and what each setting changes.

A pass takes at least the longer of two times: its bytes at the rate at which an array as large as the weights is read,
and its operations at the rate of a large float32 matrix product. Source: Williams, Waterman, Patterson 2009 (roofline).

Every type of weights with every number of threads is a variant. Variants take turns, once on a quiet machine and once
beside a process that keeps a core busy, as another service does. Numerics are fast: exact mode would pad the passes of
some types and not of others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from timeit import timeit
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from drafter_service.settings import DrafterSettings
from sybil_engine.core.model_choice import Dtype
from sybil_engine.models.kernels.packed import PackedLinear
from sybil_engine.models.loading import load
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows
from sybil_engine.serving.service_settings import ServiceSettings
from verifier_service.settings import VerifierSettings

ROWS = (1, 2, 4, 6, 8, 16, 32)
POSITION = 256
_REPEATS = 15
_WARM_UPS = 3
_PRODUCT_SIDE = 1024
_BUSY = "while True: sum(range(10_000))"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model.

    Attributes:
        slot: of its cache, taken.
    """

    name: str
    threads: int
    model: PreTrainedModel
    runner: ModelRunner
    slot: int

    def time_s(self, rows: int) -> float:
        """Seconds that one pass takes."""
        torch.set_num_threads(self.threads)
        return timeit(partial(self.runner.forward, [Rows(self.slot, POSITION, tuple(range(rows)))]), number=1)

    def work(self, rows: int) -> tuple[int, int]:
        """The least work of one pass; embeddings are looked up and cost nothing.

        Returns:
            Bytes of the weights and of the visible cells, and operations of the matrix products, attention included.
        """
        weights = weight_bytes = 0
        for module in self.model.modules():
            if isinstance(module, PackedLinear):
                numbers = module.unpacked()[0].numel()
                weights, weight_bytes = weights + numbers, weight_bytes + 2 * numbers
            elif isinstance(module, nn.Linear):
                weights += module.weight.numel()
                weight_bytes += module.weight.numel() * module.weight.element_size()
        keys = self.runner.cache.keys
        layers, _, kv_heads, head_dim = keys.shape
        seen = POSITION + rows
        cell_bytes = 2 * layers * kv_heads * head_dim * keys.element_size()
        attention = 4 * layers * int(self.model.config.num_attention_heads) * head_dim * seen
        return weight_bytes + cell_bytes * seen, rows * (2 * weights + attention)

    def ceiling(self) -> tuple[float, float]:
        """Bytes and operations per second that this machine reaches with this number of threads."""
        torch.set_num_threads(self.threads)
        array = torch.zeros(self.work(1)[0] // 4)
        left, right = torch.randn(2, _PRODUCT_SIDE, _PRODUCT_SIDE)
        read_s, product_s = (
            median(timeit(work, number=1) for _ in range(_REPEATS))
            for work in (array.sum, partial(torch.mm, left, right))
        )
        return array.numel() * 4 / read_s, 2 * _PRODUCT_SIDE**3 / product_s


def variants_of(settings: ServiceSettings, dtypes: Sequence[Dtype], thread_counts: Sequence[int]) -> Iterator[Variant]:
    """Load a model with each type, once, and run it with each number of threads."""
    for dtype in dtypes:
        torch.set_num_threads(1)
        loaded = load(settings.model, dtype)
        runner = ModelRunner(loaded, RunnerOptions(max_sessions=1, numerics="fast"))
        slot = runner.pool.allocate()
        runner.pool.reserve(slot, range(runner.tree_cells))
        for threads in thread_counts:
            yield Variant(f"{dtype}, {threads} thread{'s' if threads > 1 else ''}", threads, loaded.model, runner, slot)


def roofline_table(title: str, variants: Sequence[Variant], rows: Sequence[int]) -> Table:
    """For each variant and each number of rows: the floor of a pass, its time, and its time beside a busy core."""
    ceilings = {variant.name: variant.ceiling() for variant in variants}
    alone_s = _median_times_s(variants, rows)
    with subprocess.Popen([sys.executable, "-c", _BUSY]) as busy:
        try:
            busy_s = _median_times_s(variants, rows)
        finally:
            busy.kill()
    table = Table(title=f"{title}: one session, after {POSITION} cells", title_justify="left")
    table.add_column("weights, threads")
    for column in ("GB/s", "GFLOP/s", "rows", "MB", "GFLOP", "floor ms", "pass ms", "share", "beside a busy core, ms"):
        table.add_column(column, justify="right")
    for variant in variants:
        bytes_per_s, operations_per_s = ceilings[variant.name]
        for count in rows:
            moved_bytes, operations = variant.work(count)
            floor_s = max(moved_bytes / bytes_per_s, operations / operations_per_s)
            pass_s = alone_s[variant.name, count]
            table.add_row(
                variant.name,
                f"{bytes_per_s / 1e9:.1f}",
                f"{operations_per_s / 1e9:.0f}",
                str(count),
                f"{moved_bytes / 1e6:.1f}",
                f"{operations / 1e9:.3f}",
                f"{floor_s * 1e3:.2f}",
                f"{pass_s * 1e3:.2f}",
                f"{floor_s / pass_s:.0%}",
                f"{busy_s[variant.name, count] * 1e3:.2f}",
            )
    return table


def _median_times_s(variants: Sequence[Variant], rows: Sequence[int]) -> dict[tuple[str, int], float]:
    """Median times by variant and rows, measured in turns."""
    cases = [(variant, count) for variant in variants for count in rows]
    times = [[variant.time_s(count) for variant, count in cases] for _ in range(_WARM_UPS + _REPEATS)]
    medians = map(median, zip(*times[_WARM_UPS:], strict=True))
    return {(variant.name, count): each for (variant, count), each in zip(cases, medians, strict=True)}


def main() -> None:
    """Print one table for each of the two models."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--dtypes", nargs="+", choices=get_args(Dtype), default=["float32"], help="types of weights")
    counts = range(1, (os.cpu_count() or 1) + 1)
    parser.add_argument("--threads", nargs="+", type=int, choices=counts, default=[1], help="of a pass")
    arguments = parser.parse_args()
    for title, settings in (("target", VerifierSettings()), ("drafter", DrafterSettings())):
        variants = list(variants_of(settings, arguments.dtypes, arguments.threads))
        rows = [count for count in ROWS if all(count <= variant.runner.max_rows for variant in variants)]
        Console(width=140).print(roofline_table(title, variants, rows))


if __name__ == "__main__":
    main()
