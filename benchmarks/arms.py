"""The arms of a benchmark: this engine under each kind of speculation, and peers on the same models."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.measurement import Measured, Measurement, median_speed
from sybil_engine.core.completion import Completion, Delta
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import SamplingParams, Speculation, TokenOrigin


@dataclass(frozen=True, slots=True)
class BenchTask:
    """One prompt to complete.

    Attributes:
        prompt_id: the built-in prompt's id; empty for other prompts.
    """

    prompt: tuple[int, ...]
    seed: int
    category: str = ""
    prompt_id: str = ""


class Arm(ABC):
    """Completes prompts, one at a time."""

    name: str

    @abstractmethod
    async def complete(self, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> Measurement:
        """Complete one prompt, to the model's own end of text or `max_tokens`."""


Generate = Callable[[GenerationRequest], AsyncGenerator[Delta, None]]


@dataclass(frozen=True)
class EngineArm(Arm):
    """This engine: over its public gRPC port, or in this process.

    Attributes:
        window_tokens: the most drafted tokens of a pass; 0: the policy decides.
    """

    generate: Generate
    name: str
    speculation: Speculation
    window_tokens: int

    async def complete(self, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> Measurement:
        request = GenerationRequest(task.prompt, sampling, task.seed, max_tokens)
        request = replace(request, speculation=self.speculation, window_tokens=self.window_tokens)
        start = time.perf_counter()
        deltas = [delta async for delta in self.generate(request)]
        duration_s = time.perf_counter() - start
        completion = Completion.joined(deltas)
        counts = {name: float(count) for name, count in asdict(completion.ending.usage).items()}
        counts["first_tokens"] = first_commit_tokens(completion.origins)
        return Measurement(completion.token_ids, duration_s, counts)


def first_commit_tokens(origins: Sequence[TokenOrigin]) -> int:
    """How many tokens the first pass committed: up to the target's own, which ends every commit but the last.

    Args:
        origins: [tokens], of a completion.
    """
    own = TokenOrigin.TARGET
    return origins.index(own) + 1 if own in origins else len(origins)


def lockstep_name(window_tokens: int) -> str:
    """The name of the lockstep arm with this window, until the fastest one is known."""
    return f"{Speculation.LOCKSTEP.value}-{window_tokens}"


def with_best_lockstep(measured: Measured, windows: Sequence[int]) -> tuple[Measured, int | None]:
    """Put the fastest lockstep arm in the place of all of them.

    Returns:
        The measurements, and the window of the fastest; None without lockstep.
    """
    names = {lockstep_name(window): window for window in windows}
    tried = [name for name in measured if name in names]
    if not tried:
        return measured, None
    best = max(tried, key=lambda name: median_speed(measured[name]))
    kept = {
        Speculation.LOCKSTEP.value if name == best else name: measurements
        for name, measurements in measured.items()
        if name == best or name not in names
    }
    return kept, names[best]


def by_category(measured: Measured, tasks: Sequence[BenchTask]) -> dict[str, Measured]:
    """The measurements of each prompt category."""
    return {
        category: {
            name: [each for each, task in zip(measurements, tasks, strict=True) if task.category == category]
            for name, measurements in measured.items()
        }
        for category in dict.fromkeys(task.category for task in tasks)
    }
