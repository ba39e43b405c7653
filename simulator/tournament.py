"""Everybody plays everywhere: each policy with its best setting, at each point and temperature."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.calibration import Calibration
from simulator.launch import BestPass, LaunchRule, LongRun
from simulator.players.amusd import Amusd
from simulator.players.dsi import Dsi
from simulator.players.lockstep import Lockstep, Plain
from simulator.players.pearl import Pearl
from simulator.players.player import Outcome, Player, play_all
from simulator.players.pushed import Pushed
from simulator.players.ssd import Ssd, geometric_fan_outs, miss_exponent, uniform_fan_outs
from simulator.point import Point
from simulator.rows import BranchRows, RowControl, TreeRows, TrunkRows
from simulator.trace import Trace


@dataclass(frozen=True, slots=True)
class Limits:
    """What the players may do.

    Attributes:
        most_window_tokens: the largest window that is searched, and the most trunk tokens of one of our passes.
        most_branches: beside the trunk, that one pass may judge as batch rows of their own, as the engine does.
        most_tree_rows: drafted tokens that one pass may judge as a tree.
        draft_rows: guesses that one draft pass may extend; each is an arm of its own.
        replicas: of the target, for DSI.
    """

    most_window_tokens: int = 16
    most_branches: int = 3
    most_tree_rows: int = 32
    draft_rows: tuple[int, ...] = (8, 32)
    replicas: int = 4

    @property
    def windows(self) -> range:
        return range(1, self.most_window_tokens + 1)


@dataclass(frozen=True)
class Contender:
    """A policy, and the settings among which its best one is searched.

    Attributes:
        ours: whether it is one of this engine's arms.
    """

    name: str
    players: Sequence[Player]
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """How a contender did at one point.

    Attributes:
        setting: the best one.
        limit_tokens_per_second: of the same policy without overhead, for this engine's arms.
    """

    contender: str
    setting: str
    outcome: Outcome
    limit_tokens_per_second: float | None = None


@dataclass(frozen=True)
class Match:
    """Every contender's score at one point and temperature."""

    temperature: float
    point: Point
    scores: Sequence[Score] = field(default_factory=tuple)

    def tokens_per_second(self, contender: str) -> float:
        """Of one contender.

        Raises:
            StopIteration: nobody of that name played.
        """
        return next(score.outcome.tokens_per_second for score in self.scores if score.contender == contender)

    @property
    def plain(self) -> float:
        """Tokens per second of plain decoding."""
        return self.tokens_per_second(PLAIN)

    @property
    def best_lockstep(self) -> float:
        """Tokens per second of draft-then-verify, under shared noise or the ratio test, whichever is faster."""
        return max(map(self.tokens_per_second, LOCKSTEPS))


PLAIN = "plain"
LOCKSTEPS = ("lockstep, shared noise", "lockstep, ratio test")


def contenders(traces: Sequence[Trace], limits: Limits) -> list[Contender]:
    """Who plays on the traces of one temperature."""
    windows = limits.windows
    tokens = sum(map(len, traces))
    acceptance_rate = min(sum(int(trace.accepted.sum()) for trace in traces) / tokens, 0.99)
    exponent = miss_exponent(traces)
    geometric = [Ssd(window, geometric_fan_outs(window, acceptance_rate, exponent)) for window in windows]
    return [
        Contender(PLAIN, [Plain()]),
        Contender(LOCKSTEPS[0], [Lockstep(window, shared=True) for window in windows]),
        Contender(LOCKSTEPS[1], [Lockstep(window, shared=False) for window in windows]),
        Contender("PEARL", [Pearl(window) for window in windows]),
        Contender("AMUSD", [Amusd(window) for window in windows]),
        Contender("SSD, uniform", [Ssd(window, uniform_fan_outs(window)) for window in windows]),
        Contender("SSD, geometric", geometric),
        Contender("DSI", [Dsi(limits.replicas)]),
        *_ours(Calibration.of(traces), limits),
    ]


def _ours(calibration: Calibration, limits: Limits) -> list[Contender]:
    trunk_rows = TrunkRows(limits.most_window_tokens)
    branch_rows = BranchRows(limits.most_window_tokens, limits.most_branches)
    tree_rows = TreeRows(limits.most_tree_rows)
    most_ahead = 2 * limits.most_window_tokens

    def arm(name: str, launch: LaunchRule, rows: RowControl, draft_rows: int) -> Contender:
        return Contender(name, [Pushed(calibration, launch, rows, draft_rows, most_ahead)], ours=True)

    arms = []
    for launch, suffix in ((BestPass(), ""), (LongRun(), ", long run")):
        arms.append(arm(f"pipelined{suffix}", launch, trunk_rows, 1))
        for draft_rows in limits.draft_rows:
            arms.append(arm(f"hedged x{draft_rows}{suffix}", launch, trunk_rows, draft_rows))
            arms.append(arm(f"hedged x{draft_rows} + branches{suffix}", launch, branch_rows, draft_rows))
            arms.append(arm(f"hedged x{draft_rows} + tree{suffix}", launch, tree_rows, draft_rows))
    return arms


def play_match(traces: Sequence[Trace], point: Point, limits: Limits) -> Match:
    """Let every contender play the traces of one temperature at one point."""
    scores = [_score(contender, traces, point) for contender in contenders(traces, limits)]
    return Match(traces[0].temperature, point, scores)


def _score(contender: Contender, traces: Sequence[Trace], point: Point) -> Score:
    played = [(player, play_all(player, traces, point)) for player in contender.players]
    best, outcome = max(played, key=lambda pair: pair[1].tokens_per_second)
    limit = None
    if contender.ours:
        limit = play_all(best, traces, point.without_overhead()).tokens_per_second
    return Score(contender.name, best.setting, outcome, limit)
