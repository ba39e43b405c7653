"""Runs the arms, interleaved prompt by prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.arms import Arm
from benchmarks.measurement import Measurement
from sybil_engine.core.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to complete.

    Attributes:
        prompt_id: of a built-in prompt; else empty.
    """

    prompt: tuple[int, ...]
    seed: int
    category: str = ""
    prompt_id: str = ""


async def warm_up(
    arms: Sequence[Arm], task: Task, sampling: SamplingParams, max_tokens: int, progress: Callable[[str], None]
) -> None:
    """Complete one task with every arm, unmeasured."""
    for arm in arms:
        progress(f"warming up {arm.name}")
        await arm.complete(task.prompt, max_tokens, sampling, task.seed)


async def run_interleaved(
    arms: Sequence[Arm],
    tasks: Sequence[Task],
    sampling: SamplingParams,
    max_tokens: int,
    completed: Callable[[int, Arm, Measurement], None],
) -> dict[str, list[Measurement]]:
    """Complete every task with every arm, the arms taking turns at going first.

    Args:
        completed: told the number of the task, the arm and its measurement after each completion.

    Returns:
        By arm, one measurement a task, in order.
    """
    measured: dict[str, list[Measurement]] = {arm.name: [] for arm in arms}
    for number, task in enumerate(tasks):
        turn = number % len(arms)
        for arm in (*arms[turn:], *arms[:turn]):
            measurement = await arm.complete(task.prompt, max_tokens, sampling, task.seed)
            measured[arm.name].append(measurement)
            completed(number, arm, measurement)
    return measured
