"""`python -m benchmarks.roofline`: what a pass must move and compute, what this machine can, and how near passes come.

The floor of a pass is the longer of two times: its bytes at the rate at which an array as large as the weights is read,
and its operations at the rate of a large float32 matrix product. Source: Williams, Waterman, Patterson 2009 (roofline).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from drafter_service.settings import DrafterSettings
from sybil_engine.models.kernels.packed import PackedLinear
from sybil_engine.models.loading import load
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows
from verifier_service.settings import VerifierSettings

ROWS = (1, 2, 4, 6, 8, 16, 32)
POSITION = 256
_REPEATS = 15
_PRODUCT_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What this machine reaches with the threads that a service has.

    Attributes:
        bytes_per_s: reading an array as large as the weights, again and again.
        operations_per_s: in a large float32 matrix product.
    """

    bytes_per_s: float
    operations_per_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass of a single session cannot do without.

    Attributes:
        moved_bytes: weights, and the cells that are seen.
        operations: multiplications and additions of the matrix products, attention included.
    """

    moved_bytes: int
    operations: int

    def floor_s(self, ceiling: Ceiling) -> float:
        """The least time it can take."""
        return max(self.moved_bytes / ceiling.bytes_per_s, self.operations / ceiling.operations_per_s)


def work_of_pass(runner: ModelRunner, model: PreTrainedModel, rows: int, position: int) -> Work:
    """The work of one pass of `rows` rows that starts at `position`. An embedding is looked up, and costs nothing."""
    weights = weight_bytes = 0
    for module in model.modules():
        if isinstance(module, PackedLinear):
            numbers = module.unpacked()[0].numel()
            weights, weight_bytes = weights + numbers, weight_bytes + 2 * numbers
        elif isinstance(module, nn.Linear):
            weights += module.weight.numel()
            weight_bytes += module.weight.numel() * module.weight.element_size()
    layers, _, kv_heads, _, head_dim = runner.cache.keys.shape
    seen = position + rows
    cell_bytes = 2 * layers * kv_heads * head_dim * runner.cache.keys.element_size()
    attention = 4 * layers * int(model.config.num_attention_heads) * head_dim * seen
    return Work(weight_bytes + cell_bytes * seen, rows * (2 * weights + attention))


def measure_ceiling(array_bytes: int) -> Ceiling:
    """Measure both rates, with the threads that torch has now."""
    array = torch.zeros(array_bytes // 4)
    left, right = torch.randn(2, _PRODUCT_SIDE, _PRODUCT_SIDE)
    return Ceiling(
        array.numel() * 4 / _median_s(lambda: array.sum()),
        2 * _PRODUCT_SIDE**3 / _median_s(lambda: left @ right),
    )


def roofline_table(name: str, runner: ModelRunner, model: PreTrainedModel) -> Table:
    """Pass times of one session at `POSITION`, beside their floors."""
    ceiling = measure_ceiling(work_of_pass(runner, model, 1, POSITION).moved_bytes)
    table = Table(
        title=f"{name}, {torch.get_num_threads()} thread(s)",
        title_justify="left",
        caption=f"An array of its size is read at {ceiling.bytes_per_s / 1e9:.1f} GB/s,\n"
        f"float32 products run at {ceiling.operations_per_s / 1e9:.0f} GFLOP/s.",
        caption_justify="left",
    )
    for column in ("rows", "MB", "GFLOP", "floor ms", "pass ms", "share"):
        table.add_column(column, justify="right")
    slot = runner.allocate()
    for rows in ROWS:
        if rows > runner.max_rows:
            break
        batch = [Rows(slot, POSITION, tuple(range(rows)))]
        pass_s = _median_s(lambda batch=batch: runner.forward(batch))  # type: ignore[misc]
        work = work_of_pass(runner, model, rows, POSITION)
        floor_s = work.floor_s(ceiling)
        table.add_row(
            str(rows),
            f"{work.moved_bytes / 1e6:.1f}",
            f"{work.operations / 1e9:.3f}",
            f"{floor_s * 1e3:.2f}",
            f"{pass_s * 1e3:.2f}",
            f"{floor_s / pass_s:.0%}",
        )
    runner.release(slot)
    return table


def main() -> None:
    """Print one table for each of the two models."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of each service (default: 1)")
    arguments = parser.parse_args()
    console = Console(width=120)
    for name, settings in (
        ("target", VerifierSettings(threads=arguments.threads)),
        ("drafter", DrafterSettings(threads=arguments.threads)),
    ):
        torch.set_num_threads(settings.threads)
        loaded = load(settings.model, settings.dtype, packed=settings.packed)
        runner = ModelRunner(loaded, RunnerOptions(max_sessions=1, numerics=settings.numerics))
        console.print(roofline_table(name, runner, loaded.model))


def _median_s(work: Callable[[], object]) -> float:
    """Median time of a piece of work, in seconds."""
    times = []
    for _ in range(_REPEATS + 3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[3:])


if __name__ == "__main__":
    main()
