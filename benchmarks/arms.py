"""The arms of a benchmark that are this engine, under each kind of speculation."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.measurement import Measured, Measurement, median_speed
from sybil_engine.core.completion import Completion, Delta
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.session import MOST_DRAFTERS_PER_SESSION
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


@dataclass(frozen=True, slots=True)
class ArmKind:
    """How an arm speculates, and who drafts for it.

    Attributes:
        drafters: none: the engine's default.
        services: how many drafter services work for a session at once.
    """

    speculation: Speculation
    drafters: tuple[str, ...] = ()
    services: int = 1

    @classmethod
    def of(cls, name: str) -> "ArmKind":
        """From a name such as `auto`, `auto@model+lookup` with its drafters, or `hedged*2` with two drafter services.

        Raises:
            ValueError: there is no such way to speculate, or no such number of services.
        """
        name, _, services = name.partition("*")
        speculation, _, drafters = name.partition("@")
        count = int(services or 1)
        if not 1 <= count <= MOST_DRAFTERS_PER_SESSION:
            raise ValueError(services)
        return cls(Speculation(speculation), tuple(drafters.split("+")) if drafters else (), count)

    @classmethod
    def is_known(cls, name: str) -> bool:
        """Whether `of` takes this name."""
        try:
            cls.of(name)
        except ValueError:
            return False
        return True

    @property
    def suffix(self) -> str:
        """What follows the way of speculating in the arm's name."""
        drafters = f"@{'+'.join(self.drafters)}" if self.drafters else ""
        return drafters + (f"*{self.services}" if self.services > 1 else "")


Generate = Callable[[GenerationRequest], AsyncGenerator[Delta, None]]


@dataclass(frozen=True)
class EngineArm:
    """This engine: over its public gRPC port, or in this process.

    Attributes:
        window_tokens: the most drafted tokens of a pass; 0: the policy decides.
    """

    generate: Generate
    kind: ArmKind
    window_tokens: int

    @property
    def name(self) -> str:
        """The kind of speculation; of lockstep with the window, because several are tried."""
        speculation = self.kind.speculation.value
        return f"{speculation}-{self.window_tokens}{self.kind.suffix}" if self.searches else self.group

    @property
    def group(self) -> str:
        """The name that the fastest window of this kind gets."""
        return self.kind.speculation.value + self.kind.suffix

    @property
    def searches(self) -> bool:
        """Whether it is one of several windows."""
        return self.kind.speculation is Speculation.LOCKSTEP

    async def complete(self, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> Measurement:
        """Complete one prompt, to the model's own end of text or `max_tokens`."""
        request = GenerationRequest(task.prompt, sampling, task.seed, max_tokens)
        request = replace(
            request,
            speculation=self.kind.speculation,
            window_tokens=self.window_tokens,
            drafters=self.kind.drafters,
            drafters_per_session=self.kind.services,
        )
        start = time.perf_counter()
        deltas = [delta async for delta in self.generate(request)]
        duration_s = time.perf_counter() - start
        completion = Completion.joined(deltas)
        usage = asdict(replace(completion.ending.usage, drafters=()))
        counts = {name: float(count) for name, count in usage.items() if name != "drafters"}
        for each in completion.ending.usage.drafters:
            counts |= {f"{each.drafter}_judged": float(each.judged), f"{each.drafter}_accepted": float(each.accepted)}
        counts["first_tokens"] = first_commit_tokens(completion.origins)
        return Measurement(completion.token_ids, duration_s, counts)


def first_commit_tokens(origins: Sequence[TokenOrigin]) -> int:
    """How many tokens the first pass committed: up to the target's own, which ends every commit but the last.

    Args:
        origins: [tokens], of a completion.
    """
    own = TokenOrigin.TARGET
    return origins.index(own) + 1 if own in origins else len(origins)


def with_best_windows(measured: Measured, arms: Sequence[EngineArm]) -> tuple[Measured, dict[str, int]]:
    """Put the fastest of several windows in the place of all of them, for each kind that tries several.

    Returns:
        The measurements, and the window of the fastest, by kind.
    """
    named = {arm.name: arm for arm in arms if arm.searches}
    best: dict[str, EngineArm] = {}
    for name, arm in named.items():
        known = best.get(arm.group)
        if known is None or median_speed(measured[name]) > median_speed(measured[known.name]):
            best[arm.group] = arm
    kept: dict[str, Sequence[Measurement]] = {}
    for name, measurements in measured.items():
        if name not in named:
            kept[name] = measurements
        elif best[named[name].group].name == name:
            kept[named[name].group] = measurements
    return kept, {group: arm.window_tokens for group, arm in best.items()}


def by_category(measured: Measured, tasks: Sequence[BenchTask]) -> dict[str, Measured]:
    """The measurements of each prompt category."""
    return {
        category: {
            name: [each for each, task in zip(measurements, tasks, strict=True) if task.category == category]
            for name, measurements in measured.items()
        }
        for category in dict.fromkeys(task.category for task in tasks)
    }
