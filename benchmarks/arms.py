"""The arms of a benchmark that are this engine, under each kind of speculation."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
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


Generate = Callable[[GenerationRequest], AsyncGenerator[Delta, None]]


@dataclass(frozen=True)
class EngineArm:
    """This engine: over its public gRPC port, or in this process.

    Attributes:
        window_tokens: the most drafted tokens of a pass; 0: the policy decides.
    """

    generate: Generate
    speculation: Speculation
    window_tokens: int

    @property
    def name(self) -> str:
        """The kind of speculation; of lockstep with the window, because several are tried."""
        kind = self.speculation
        return f"{kind.value}-{self.window_tokens}" if kind is Speculation.LOCKSTEP else kind.value

    async def complete(self, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> Measurement:
        """Complete one prompt, to the model's own end of text or `max_tokens`."""
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


def with_best_lockstep(measured: Measured, windows: Mapping[str, int]) -> tuple[Measured, int | None]:
    """Put the fastest lockstep arm in the place of all of them.

    Args:
        windows: of each lockstep arm, by name.

    Returns:
        The measurements, and the window of the fastest; None without lockstep.
    """
    best = max(windows, key=lambda name: median_speed(measured[name]), default="")
    kept = {
        Speculation.LOCKSTEP.value if name == best else name: measurements
        for name, measurements in measured.items()
        if name == best or name not in windows
    }
    return kept, windows.get(best)


def by_category(measured: Measured, tasks: Sequence[BenchTask]) -> dict[str, Measured]:
    """The measurements of each prompt category."""
    return {
        category: {
            name: [each for each, task in zip(measurements, tasks, strict=True) if task.category == category]
            for name, measurements in measured.items()
        }
        for category in dict.fromkeys(task.category for task in tasks)
    }
