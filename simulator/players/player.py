"""What every player is: a policy that turns a trace and a point into a time."""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from operator import add

from simulator.point import Point
from simulator.trace import Trace


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of playing a trace; results of several traces add up.

    Attributes:
        duration_ms: until the end of the pass that commits the last token.
        idle_ms: the part of it during which no verify pass was running.
        first_tokens: committed by the first pass.
        first_ms: until the end of that pass. Both are 0 if a player does not report them; only this engine's does.
    """

    tokens: int = 0
    passes: int = 0
    duration_ms: float = 0.0
    idle_ms: float = 0.0
    first_tokens: int = 0
    first_ms: float = 0.0

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(*map(add, astuple(self), astuple(other)))

    @property
    def tokens_per_second(self) -> float:
        return 1e3 * self.tokens / self.duration_ms

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed without the first pass."""
        return 1e3 * (self.tokens - self.first_tokens) / (self.duration_ms - self.first_ms)

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes

    @property
    def pass_ms(self) -> float:
        """Mean time of a verify pass."""
        return (self.duration_ms - self.idle_ms) / self.passes

    @property
    def verifier_idle(self) -> float:
        """Share of the time during which no verify pass was running."""
        return self.idle_ms / self.duration_ms


Player = Callable[[Trace, Point], Outcome]
"""One policy with one setting: produces a trace's text at a point."""
