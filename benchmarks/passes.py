"""`python -m benchmarks.passes`: what a pass over many sessions costs beside one over few, in passes of as many rows.

The cases take turns on one runner in exact mode. `--refill` fills the same cells as a prompt and in decode passes, and
counts the numbers that differ: why generated tokens' pages are not used again (docs/exactness.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sybil_engine.models.loading import load
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.pages import PAGE_CELLS
from sybil_engine.models.rows import Rows

# Sessions and rows of each; the second of a pair has the same rows in fewer sessions.
PAIRS = (((8, 1), (1, 8)), ((32, 1), (4, 8)))
POSITION = 200
WARM_UPS = 5


@dataclass(frozen=True, slots=True)
class PassRatio:
    """Two passes of as many rows.

    Attributes:
        ratio: of the medians of their times.
        many_ms, few_ms: medians.
    """

    name: str
    ratio: float
    many_ms: float
    few_ms: float


def open_runner(threads: int) -> ModelRunner:
    """The embedded target in exact mode, for as many sessions as the largest case has."""
    torch.set_num_threads(threads)
    return ModelRunner(load("embedded-target", "float32", "cpu", packed=True), RunnerOptions(max_sessions=32))


def compare(runner: ModelRunner, repeats: int) -> list[PassRatio]:
    """Time all cases in turns."""
    slots = [_filled(runner) for _ in range(32)]
    cases = {case: _batch(slots, *case) for pair in PAIRS for case in pair}
    times: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    for turn in track(range(-WARM_UPS, repeats), "passes", console=Console(stderr=True), transient=True):
        for case, batch in cases.items():
            start = perf_counter()
            runner.forward(batch)
            if turn >= 0:
                times[case].append(1e3 * (perf_counter() - start))
    medians = {case: median(each) for case, each in times.items()}
    return [
        PassRatio(
            f"{many[0]} x {many[1]} / {few[0]} x {few[1]}", medians[many] / medians[few], medians[many], medians[few]
        )
        for many, few in PAIRS
    ]


def refilled_differences(runner: ModelRunner) -> tuple[int, int]:
    """Fill a page's cells in decode passes of one row, and the same as a chunk of a prompt.

    Returns:
        How many keys and values differ, and how many there are.
    """
    token_ids = tuple(range(2, 2 + PAGE_CELLS))
    cells = []
    for chunked in (True, False):
        slot = runner.pool.allocate()
        runner.pool.reserve(slot, range(2 * PAGE_CELLS))
        if chunked:
            runner.prefill(Rows(slot, 0, token_ids))
        else:
            for position, token_id in enumerate(token_ids):
                runner.forward([Rows(slot, position, (token_id,))])
        cells.append(runner.cache.read(slot, range(PAGE_CELLS)))
    pairs = list(zip(*cells, strict=True))
    return sum(int((one != other).sum()) for one, other in pairs), sum(one.numel() for one, _ in pairs)


def _filled(runner: ModelRunner) -> int:
    """A session's slot, its cells up to the cases' rows reserved and filled."""
    slot = runner.pool.allocate()
    runner.pool.reserve(slot, range(POSITION + PAGE_CELLS))
    token_ids = tuple(2 + (slot + position) % 1000 for position in range(POSITION))
    for start in range(0, POSITION - POSITION % PAGE_CELLS, PAGE_CELLS):
        runner.prefill(Rows(slot, start, token_ids[start : start + PAGE_CELLS]))
    start = POSITION - POSITION % PAGE_CELLS
    runner.forward([Rows(slot, start, token_ids[start:])])
    return slot


def _batch(slots: Sequence[int], sessions: int, rows: int) -> list[Rows]:
    return [Rows(slot, POSITION, tuple(range(2, 2 + rows))) for slot in slots[:sessions]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description=__doc__)
    parser.add_argument("--repeats", type=int, default=100, help="passes of each case (100)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of a pass (1)")
    parser.add_argument("--refill", action="store_true", help="compare cells filled as a prompt and in decode passes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    runner = open_runner(arguments.threads)
    if arguments.refill:
        differing, all_numbers = refilled_differences(runner)
        Console().print(f"{differing} of {all_numbers} keys and values differ")
        return
    found = compare(runner, arguments.repeats)
    if arguments.json:
        Console().print(json.dumps({each.name: each.ratio for each in found}))
        return
    table = Table("sessions x rows", "ratio", "ms", "ms of the few", title="passes of as many rows, medians")
    for each in found:
        table.add_row(each.name, f"{each.ratio:.2f}", f"{each.many_ms:.2f}", f"{each.few_ms:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
