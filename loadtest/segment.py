"""What is sent at a time: one arm at one level in one round."""

from dataclasses import dataclass, replace
from random import Random

from loadtest.level import Level
from loadtest.workload import Workload
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import Speculation


@dataclass(frozen=True, slots=True)
class Planned:
    """One request that is to be sent.

    Attributes:
        leave_after_tokens: the client cancels once it has as many; None: it stays.
    """

    index: int
    request: GenerationRequest
    leave_after_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """One arm at one level in one round.

    Attributes:
        stage: what all arms have in common, and no other part of the test: it decides the prompts, seeds and times.
        requests: how many; None: until `duration_s` is over.
        start_ns: of the load, by the monotonic clock.
        leaving_share: of clients that cancel part-way.
        own_head: of the prompts, see Workload.request. Empty: every arm has the very same prompts, and their tokens
            are compared.
        timed: its times count.
    """

    address: str
    workload: Workload
    arm: Speculation
    level: Level
    round_number: int
    stage: str
    requests: int | None = None
    duration_s: float | None = None
    ramp_s: float = 0.0
    deadline_s: float | None = None
    leaving_share: float = 0.0
    own_head: str = ""
    timed: bool = True
    start_ns: int = 0

    def __str__(self) -> str:
        return f"{self.level}, {self.arm.value}, {f'round {self.round_number + 1}' if self.timed else 'comparison'}"

    @property
    def stop_ns(self) -> int | None:
        """When the last request may be sent."""
        return None if self.duration_s is None else self.start_ns + int(self.duration_s * 1e9)

    def planned(self, index: int) -> Planned:
        """The request of this number."""
        request = replace(self.workload.request(self.stage, index, self.own_head), speculation=self.arm)
        generator = Random(f"{self.workload.seed} leaves {self.stage} {index}")
        leaves = generator.random() < self.leaving_share
        return Planned(index, request, generator.randint(1, request.max_tokens or 32) if leaves else None)
