"""Plays each policy with its best setting at each point and temperature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from simulator.players.amusd import amusd
from simulator.players.dsi import dsi
from simulator.players.pearl import pearl
from simulator.players.player import Outcome, Player
from simulator.players.ssd import geometric_fan_outs, miss_exponent, ssd, uniform_fan_outs
from simulator.players.sybil import Sybil
from simulator.point import Point
from simulator.trace import Trace
from sybil_engine.core.types import MODEL_DRAFTER, Speculation

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


def contenders(traces: Sequence[Trace], most_tokens: int, replicas: int) -> dict[str, dict[str, Player]]:
    """The contenders on the traces of one temperature: by name, a player for each setting to try.

    Args:
        most_tokens: the longest window.
        replicas: of the target, for DSI.
    """
    tokens = sum(map(len, traces))
    acceptance_rate = min(sum(int(trace.accepted.sum()) for trace in traces) / tokens, 0.99)
    exponent = miss_exponent(traces)
    ours = partial(Sybil, most_tokens=most_tokens)

    def by_window(player: Callable[[int], Player]) -> dict[str, Player]:
        return {f"window {window}": player(window) for window in range(1, most_tokens + 1)}

    return {
        OFF: {"": ours(Speculation.OFF).play},
        LOCKSTEPS[0]: by_window(lambda window: ours(Speculation.LOCKSTEP, window).play),
        LOCKSTEPS[1]: by_window(lambda window: partial(ssd, (0,) * (window + 1))),
        "PEARL": by_window(lambda window: partial(pearl, window)),
        "AMUSD": by_window(lambda window: partial(amusd, window)),
        "SSD, uniform": by_window(lambda window: partial(ssd, uniform_fan_outs(window))),
        "SSD, geometric": by_window(lambda window: partial(ssd, geometric_fan_outs(window, acceptance_rate, exponent))),
        "DSI": {f"{replicas} targets": partial(dsi, replicas)},
        **{each.value: {"": ours(each).play} for each in (Speculation.PIPELINED, Speculation.HEDGED, Speculation.AUTO)},
        # What a second drafter service is worth here, and what lookup adds to the draft model.
        "hedged, 2 drafters": {"": ours(Speculation.HEDGED, services=2).play},
        "auto, with lookup": {"": ours(Speculation.AUTO, drafters=(MODEL_DRAFTER, "lookup")).play},
    }


def play_match(traces: Sequence[Trace], point: Point, most_tokens: int, replicas: int) -> Match:
    """Let all contenders play the traces of one temperature at one point; see `contenders`."""
    playing = contenders(traces, most_tokens, replicas)
    scores = {name: _best(players, traces, point) for name, players in playing.items()}
    return Match(traces[0].temperature, point, scores)


def _best(players: Mapping[str, Player], traces: Sequence[Trace], point: Point) -> Score:
    outcomes = {setting: [play(trace, point) for trace in traces] for setting, play in players.items()}
    scores = [Score(setting, sum(each, Outcome())) for setting, each in outcomes.items()]
    return max(scores, key=lambda score: score.outcome.tokens_per_second)
