"""Who is measured: this engine under each policy of speculation, and peers on the same models."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.measurement import Measurement
from sybil_engine.core.completion import Completion, Delta
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import SamplingParams, Speculation, TokenOrigin


@dataclass(frozen=True, slots=True)
class BenchTask:
    """One prompt to complete.

    Attributes:
        prompt_id: of a built-in prompt; else empty.
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
    """How many tokens the first pass committed: up to the target's own, which ends every commit but a session's last.

    Args:
        origins: [tokens], of a completion.
    """
    own = TokenOrigin.TARGET
    return origins.index(own) + 1 if own in origins else len(origins)


def lockstep_name(window_tokens: int) -> str:
    """The name of the lockstep arm with this window, until the fastest one is known."""
    return f"{Speculation.LOCKSTEP.value}-{window_tokens}"
