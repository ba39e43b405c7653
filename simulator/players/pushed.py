"""This engine: blocks are pushed, the verifier judges what is there, and commits move the roots of both trees."""

import math
from dataclasses import dataclass

from simulator.calibration import Calibrated, Calibration
from simulator.drafter import Drafter
from simulator.guess_tree import Guess, GuessTree, trunk
from simulator.launch import LaunchRule, Seen
from simulator.players.player import Outcome
from simulator.point import Point
from simulator.rows import RowControl
from simulator.trace import Trace


@dataclass(frozen=True, eq=False)
class Pushed:
    """Pipelined with one draft row; hedged with more; with tree verification if the verifier's rows are a tree's.

    Under shared noise. A hedge that the verifier corrects into is there at once, with whatever was drafted behind it.

    Args:
        draft_rows: guesses that one draft pass extends.
        most_ahead: tokens drafted beyond the last commit that the drafter has heard of.
    """

    calibration: Calibration
    launch: LaunchRule
    rows: RowControl
    draft_rows: int = 1
    most_ahead: int = 32

    @property
    def setting(self) -> str:
        return self.rows.name

    def play(self, trace: Trace, point: Point) -> Outcome:
        """See `Player.play`."""
        tree = GuessTree(Calibrated(trace, self.calibration))
        drafter = Drafter(tree, point, self.draft_rows, self.most_ahead)
        seen = Seen()
        root = tree.root
        now_ms = idle_ms = first_ms = 0.0
        position = passes = first_tokens = 0
        while position < len(trace):
            start_ms = self._launch_ms(drafter, root, seen, now_ms, point)
            judged = self.rows.choose(root, point)
            accepted = sum(guess.on_path for guess in judged)
            seen.saw(*_trunk_result(root, judged))
            position = min(position + accepted + 1, len(trace))
            root = tree.committed(position - 1)
            idle_ms += start_ms - now_ms
            now_ms = start_ms + point.pass_ms(len(judged))
            passes += 1
            if passes == 1:
                first_tokens, first_ms = position, now_ms
            seen.tokens_per_ms = position / now_ms
            drafter.tell(now_ms + point.one_way_ms, root)
        return Outcome(len(trace), passes, now_ms, idle_ms, first_tokens, first_ms)

    def _launch_ms(self, drafter: Drafter, root: Guess, seen: Seen, now_ms: float, point: Point) -> float:
        """Let the drafter run until the next pass starts; returns when that is."""
        drafter.run_until(now_ms - point.one_way_ms)
        ready = _trunk_tokens(root)
        wait = self.launch.wait(point, seen, ready)
        deadline_ms = now_ms + wait.patience_ms
        while ready < wait.tokens:
            arrival_ms = drafter.next_pass_end_ms() + point.one_way_ms
            if arrival_ms > deadline_ms:
                # What never comes is not waited for.
                return now_ms if arrival_ms == math.inf else deadline_ms
            drafter.finish_pass()
            now_ms = max(now_ms, arrival_ms)
            ready = _trunk_tokens(root)
        return now_ms


def _trunk_tokens(root: Guess) -> int:
    return sum(1 for _ in trunk(root))


def _trunk_result(root: Guess, judged: list[Guess]) -> tuple[int, int]:
    """How many of the trunk's judged tokens were tested, and how many of these accepted."""
    rows = set(map(id, judged))
    tested = accepted = 0
    for guess in trunk(root):
        if id(guess) not in rows:
            break
        tested += 1
        if not guess.on_path:
            break
        accepted += 1
    return tested, accepted
