"""Plays each policy with its best setting at each point and temperature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from simulator.players.amusd import Amusd
from simulator.players.dsi import Dsi
from simulator.players.lockstep import Lockstep
from simulator.players.pearl import Pearl
from simulator.players.player import Outcome, Player, play_all
from simulator.players.ssd import Ssd, geometric_fan_outs, miss_exponent, uniform_fan_outs
from simulator.players.sybil import Sybil
from simulator.point import Point
from simulator.trace import Trace
from sybil_engine.core.types import Speculation

OFF = "off"
LOCKSTEPS = ("lockstep", "lockstep, ratio test")


class Score(NamedTuple):
    """How a contender did at one point with its best setting."""

    setting: str
    outcome: Outcome


@dataclass(frozen=True)
class Match:
    """Every contender's score at one point and temperature, by name."""

    temperature: float
    point: Point
    scores: Mapping[str, Score]

    @property
    def off(self) -> float:
        """Tokens per second of plain decoding."""
        return self.scores[OFF].outcome.tokens_per_second

    @property
    def best_lockstep(self) -> float:
        """Tokens per second of lockstep, under shared noise or the ratio test, whichever is faster."""
        return max(self.scores[name].outcome.tokens_per_second for name in LOCKSTEPS)


def contenders(traces: Sequence[Trace], most_tokens: int, replicas: int) -> dict[str, Sequence[Player]]:
    """The contenders on the traces of one temperature: by name, a player for each setting to try.

    Args:
        most_tokens: the longest window.
        replicas: of the target, for DSI.
    """
    windows = range(1, most_tokens + 1)
    tokens = sum(map(len, traces))
    acceptance_rate = min(sum(int(trace.accepted.sum()) for trace in traces) / tokens, 0.99)
    exponent = miss_exponent(traces)
    ours = partial(Sybil, most_tokens=most_tokens)
    return {
        OFF: [ours(Speculation.OFF)],
        LOCKSTEPS[0]: [ours(Speculation.LOCKSTEP, window) for window in windows],
        LOCKSTEPS[1]: [Lockstep(window) for window in windows],
        "PEARL": [Pearl(window) for window in windows],
        "AMUSD": [Amusd(window) for window in windows],
        "SSD, uniform": [Ssd(window, uniform_fan_outs(window)) for window in windows],
        "SSD, geometric": [Ssd(window, geometric_fan_outs(window, acceptance_rate, exponent)) for window in windows],
        "DSI": [Dsi(replicas)],
        **{each.value: [ours(each)] for each in (Speculation.PIPELINED, Speculation.HEDGED, Speculation.AUTO)},
    }


def play_match(traces: Sequence[Trace], point: Point, most_tokens: int, replicas: int) -> Match:
    """Let all contenders play the traces of one temperature at one point; see `contenders`."""
    playing = contenders(traces, most_tokens, replicas)
    scores = {name: _best(players, traces, point) for name, players in playing.items()}
    return Match(traces[0].temperature, point, scores)


def _best(players: Sequence[Player], traces: Sequence[Trace], point: Point) -> Score:
    played = [Score(player.setting, play_all(player, traces, point)) for player in players]
    return max(played, key=lambda score: score.outcome.tokens_per_second)
