"""Runs the arms, interleaved prompt by prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.arms import Arm
from benchmarks.measurement import Measurement
from sybil_engine.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to complete."""

    prompt: tuple[int, ...]
    seed: int


async def run_interleaved(
    arms: Sequence[Arm],
    tasks: Sequence[Task],
    sampling: SamplingParams,
    max_tokens: int,
    progress: Callable[[str], None],
) -> dict[str, list[Measurement]]:
    """Complete every task with every arm, the arms taking turns at going first; a first round warms up unmeasured.

    Returns:
        By arm, one measurement a task, in order.
    """
    for arm in arms:
        progress(f"warming up {arm.name}")
        await arm.complete(tasks[0].prompt, max_tokens, sampling, tasks[0].seed)
    measured: dict[str, list[Measurement]] = {arm.name: [] for arm in arms}
    for number, task in enumerate(tasks):
        turn = number % len(arms)
        for arm in (*arms[turn:], *arms[:turn]):
            progress(f"prompt {number + 1} of {len(tasks)}: {arm.name}")
            measured[arm.name].append(await arm.complete(task.prompt, max_tokens, sampling, task.seed))
    return measured


def count_differences(measured: Mapping[str, Sequence[Measurement]], reference: str, names: Sequence[str]) -> int:
    """Count the completions whose tokens differ from the reference arm's."""
    return sum(
        ours.token_ids != theirs.token_ids
        for name in names
        for ours, theirs in zip(measured[name], measured[reference], strict=True)
    )
