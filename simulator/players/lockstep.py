"""Plain decoding, and draft-then-verify: one of the two models works, the other one waits."""

from dataclasses import dataclass

from simulator.players.player import Outcome
from simulator.point import Point
from simulator.trace import Trace


@dataclass(frozen=True, slots=True)
class Plain:
    """The target alone: a pass a token."""

    setting: str = ""

    def play(self, trace: Trace, point: Point) -> Outcome:
        """See `Player.play`."""
        return Outcome(len(trace), len(trace), len(trace) * point.verify_ms, 0.0, 1, point.verify_ms)


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Draft a window, send it, judge it, send back what came of it; then the next window.

    Args:
        shared: judged by equality under shared noise, as this engine does; else by the ratio test.

    Source: Leviathan, Kalman, Matias 2023 (arXiv 2211.17192); Chen et al. 2023 (arXiv 2302.01318).
    """

    window_tokens: int
    shared: bool = True

    @property
    def setting(self) -> str:
        return f"window {self.window_tokens}"

    def play(self, trace: Trace, point: Point) -> Outcome:
        """See `Player.play`."""
        rejections = trace.shared_rejections if self.shared else trace.own_rejections
        waiting_ms = self.window_tokens * point.draft_ms + point.round_trip_ms
        position = passes = 0
        while position < len(trace):
            # The accepted tokens, and the target's own behind them.
            position = min(rejections[position], position + self.window_tokens) + 1
            passes += 1
        round_ms = waiting_ms + point.pass_ms(self.window_tokens)
        first_tokens = min(min(rejections[0], self.window_tokens) + 1, len(trace))
        return Outcome(len(trace), passes, passes * round_ms, passes * waiting_ms, first_tokens, round_ms)
