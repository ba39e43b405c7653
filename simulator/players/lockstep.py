"""Draft-then-verify under the ratio test: one model works while the other waits."""

from simulator.players.player import Outcome, WindowPlayer
from simulator.point import Point
from simulator.trace import Trace


class Lockstep(WindowPlayer):
    """Draft a window, send it, judge it, send back what came of it; then the next window.

    Source: Leviathan, Kalman, Matias 2023 (arXiv 2211.17192); Chen et al. 2023 (arXiv 2302.01318).
    """

    def play(self, trace: Trace, point: Point) -> Outcome:
        """See `Player.play`."""
        waiting_ms = self.window_tokens * point.draft_ms + point.rtt_ms
        position = passes = 0
        while position < len(trace):
            # The accepted tokens, and the target's own after them.
            position = min(trace.own_rejections[position], position + self.window_tokens) + 1
            passes += 1
        return Outcome(
            len(trace), passes, passes * (waiting_ms + point.pass_ms(self.window_tokens)), passes * waiting_ms
        )
