"""Checks the simulator against the engine: our arms, played on traces of the very completions that were measured."""

import re
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

from simulator.calibration import Calibration
from simulator.launch import LongRun
from simulator.measured import (
    HOW_TO_MEASURE,
    Counts,
    EngineLimits,
    MeasuredBench,
    MeasuredCompletion,
    MeasuredRun,
    UnusableBench,
)
from simulator.players.lockstep import Lockstep, Plain
from simulator.players.player import Outcome, Player, play_all
from simulator.players.pushed import Pushed
from simulator.point import Point
from simulator.rows import BranchRows, TrunkRows
from simulator.storage import Recording
from simulator.trace import Trace
from sybil_engine.core.ledger import Ledger

TOLERANCE = 0.10
OFF = "off"
_LOCKSTEP = re.compile(r"lockstep-([1-9]\d*)")
# What no recording repeats, or no player knows, unless it has this value.
_PLAYABLE = {
    "prompts": "",
    "repeat": 1,
    "dtype": "float32",
    "draft_dtype": None,
    "numerics": "exact",
    "grow_target": "",
    "grow_draft": "",
    "verifier_arguments": [],
    "drafter_arguments": [],
}


@dataclass(frozen=True, slots=True)
class Simulated:
    """What an arm does at some point, according to the simulator.

    Attributes:
        tokens_per_second: of decoding.
        ratio: to plain decoding.
        difference: to what was measured, as a share of it; of `off` that of the speed, of other arms that of the ratio.
    """

    point: Point
    tokens_per_second: float
    tokens_per_pass: float
    ratio: float
    difference: float

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= TOLERANCE


@dataclass(frozen=True, slots=True)
class CheckedArm:
    """An arm as it was measured, and as it is simulated.

    Attributes:
        tokens_per_second: measured, of decoding.
        ratio: to plain decoding, measured.
        nominal: at the times that were asked for.
        in_place: at the times that were measured.
    """

    name: str
    tokens_per_second: float
    tokens_per_pass: float
    ratio: float
    nominal: Simulated
    in_place: Simulated


@dataclass(frozen=True)
class CheckedRun:
    """One temperature.

    Attributes:
        compared: completions.
        left_out: completions whose text is not the recorded one.
    """

    temperature: float
    point: Point
    compared: int
    left_out: int
    arms: Sequence[CheckedArm]


def check_same(recording: Recording, trace_file: Path, bench: MeasuredBench, temperatures: Sequence[float]) -> None:
    """Refuse to compare what is not the same.

    Raises:
        UnusableBench: names what differs, and the command that makes it right.
    """
    for name, playable in _PLAYABLE.items():
        value = bench.settings.get(name, playable)
        if value != playable:
            given = ",".join(map(str, value)) if isinstance(value, list) else value
            raise UnusableBench(
                f"{bench.file} was measured with --{name.replace('_', '-')} {given}, which is not simulated; measure "
                f"without it: `{HOW_TO_MEASURE} {bench.file}`"
            )
    for temperature in temperatures:
        if bench.at(temperature) is None:
            known = ", ".join(f"{each:g}" for each in bench.temperatures())
            raise UnusableBench(
                f"{bench.file} holds nothing at temperature {temperature:g}, only at {known}; name one of these with "
                "--temperature, or leave it out"
            )
    for what, recorded, measured in _compared(recording, bench, temperatures):
        if recorded != measured:
            raise UnusableBench(
                f"{trace_file} and {bench.file} do not hold the same: {what} is {recorded} in the first, {measured} in "
                f"the second; record again with `{_record_command(bench, trace_file)}`"
            )


def check_run(bench: MeasuredBench, temperature: float, traces: Sequence[Trace]) -> CheckedRun:
    """Play every arm that was measured at a temperature, and compare.

    Args:
        traces: of the same prompts, see `check_same`.

    Raises:
        UnusableBench: no text was recorded as it was measured, nothing was decoded, or `off` was not measured.
    """
    run = bench.at(temperature)
    assert run is not None
    calibration = Calibration.of(traces)
    players = {name: _player(name, calibration, bench) for name in run.arms}
    names = sorted((name for name, player in players.items() if player), key=lambda name: name != OFF)
    if OFF not in names:
        raise UnusableBench(
            f"{bench.file} holds no arm off, of which all others are multiples; measure with `{HOW_TO_MEASURE} "
            f"{bench.file}`"
        )
    same = [number for number, trace in enumerate(traces) if _is_measured(trace, number, run)]
    if not same:
        raise UnusableBench(
            f"at temperature {temperature:g} no text in {bench.file} is the recorded one, so another version of this "
            f"engine or of its models wrote it; measure again with `{HOW_TO_MEASURE} {bench.file}`, then record again"
        )
    compared = _Compared(bench, run, [traces[number] for number in same], same)
    return CheckedRun(
        temperature,
        bench.point,
        len(same),
        len(traces) - len(same),
        [compared.checked(name, player) for name in names if (player := players[name])],
    )


class _Compared:
    """The completions of one temperature that are compared, measured and played."""

    def __init__(self, bench: MeasuredBench, run: MeasuredRun, traces: Sequence[Trace], numbers: Sequence[int]) -> None:
        self._bench = bench
        self._traces = traces
        self._measured = {name: [every[number] for number in numbers] for name, every in run.arms.items()}
        self._draft_ms, self._round_trip_ms = drafting_in_place(self._measured, bench.point)
        self._plain_nominal = self._speed(self._play(Plain(), bench.point))
        self._plain_in_place = self._speed(self._play(Plain(), self._in_place(OFF, Plain())))
        self._off_speed = self._measured_speed(OFF)

    def checked(self, name: str, player: Player) -> CheckedArm:
        """Compare one arm."""
        counts = _sum(self._measured[name])
        speed = self._measured_speed(name)
        ratio = speed / self._off_speed

        def simulated(point: Point, plain: float) -> Simulated:
            outcome = self._play(player, point)
            played = self._speed(outcome)
            difference = (played / speed if name == OFF else played / plain / ratio) - 1
            return Simulated(point, played, outcome.tokens_per_pass, played / plain, difference)

        return CheckedArm(
            name,
            speed,
            counts.completion_tokens / counts.verify_passes,
            ratio,
            simulated(self._bench.point, self._plain_nominal),
            simulated(self._in_place(name, player), self._plain_in_place),
        )

    def _play(self, player: Player, point: Point) -> Outcome:
        return play_all(player, self._traces, point)

    def _in_place(self, name: str, player: Player) -> Point:
        """The point as this arm met it. What its passes took longer than simulated ones is the verify pass's."""
        counts = _sum(self._measured[name])
        played = self._play(player, self._bench.point)
        measured_ms = counts.verify_ns / 1e6 / counts.verify_passes
        longer_ms = measured_ms - (played.duration_ms - played.idle_ms) / played.passes
        return replace(
            self._bench.point,
            verify_ms=self._bench.point.verify_ms + longer_ms,
            draft_ms=self._draft_ms,
            round_trip_ms=self._round_trip_ms,
        )

    def _measured_speed(self, name: str) -> float:
        counts = _sum(self._measured[name])
        if counts.decode_tokens < 1 or counts.decode_ns < 1:
            raise self._too_short()
        return 1e9 * counts.decode_tokens / counts.decode_ns

    def _speed(self, outcome: Outcome) -> float:
        if outcome.tokens <= outcome.first_tokens:
            raise self._too_short()
        return outcome.decode_tokens_per_second

    def _too_short(self) -> UnusableBench:
        return UnusableBench(
            f"the texts in {self._bench.file} are so short that an arm is done after its first pass; measure and "
            "record longer ones, with --max-tokens 96 for example"
        )


def drafting_in_place(measured: Mapping[str, Sequence[MeasuredCompletion]], point: Point) -> tuple[float, float]:
    """A draft step and a round trip in milliseconds, as lockstep met them.

    Between two of its passes lie a round trip and its window's draft steps, each with all that comes on top of its
    pass. Two windows tell both apart; with one, a draft step is as long as its pass, and the rest is the round trip's.
    Without lockstep nobody knows. Neither can be shorter than was asked for: a line that says so was bent by other
    work.
    """
    locksteps = {window: measured[name] for name in measured if (window := _window_tokens(name))}
    gaps_ms = [statistics.median(each.gap_ns for each in completions) / 1e6 for completions in locksteps.values()]
    if not locksteps:
        return point.draft_ms, point.round_trip_ms
    if len(locksteps) > 1:
        line = statistics.linear_regression(list(locksteps), gaps_ms)
        return max(point.draft_ms, line.slope), max(point.round_trip_ms, line.intercept)
    ((window_tokens, completions),) = locksteps.items()
    counts = _sum(completions)
    draft_ms = counts.draft_ns / 1e6 / max(1, counts.drafted_tokens)
    return max(point.draft_ms, draft_ms), max(point.round_trip_ms, gaps_ms[0] - window_tokens * draft_ms)


def _window_tokens(name: str) -> int | None:
    """The window of a lockstep arm; None of others."""
    matched = _LOCKSTEP.fullmatch(name)
    return int(matched[1]) if matched else None


def _player(name: str, calibration: Calibration, bench: MeasuredBench) -> Player | None:
    """An arm with the limits that it had; None for one that is not simulated."""
    limits = bench.limits
    if name == OFF:
        return Plain()
    if window_tokens := _window_tokens(name):
        return Lockstep(window_tokens)
    most_tokens = min(bench.window_tokens or limits.max_window_tokens, limits.max_window_tokens)
    if name == "pipelined":
        return _pushed(calibration, most_tokens, limits, hedged=False)
    if name == "hedged":
        return _pushed(calibration, most_tokens, limits, hedged=True)
    return None


def _pushed(calibration: Calibration, most_tokens: int, limits: EngineLimits, *, hedged: bool) -> Player:
    return Pushed(
        calibration,
        LongRun(most_tokens),
        BranchRows(most_tokens, limits.branches) if hedged else TrunkRows(most_tokens),
        draft_rows=limits.draft_rows if hedged else 1,
        # As far ahead as the engine's launch rule lets its drafter go.
        most_ahead=2 * most_tokens,
    )


def _is_measured(trace: Trace, number: int, run: MeasuredRun) -> bool:
    """Whether every arm committed the recorded text."""
    fingerprint = Ledger(map(int, trace.target_ids), 0).fingerprint(len(trace))
    return all(completions[number].text_fingerprint == fingerprint for completions in run.arms.values())


def _sum(completions: Sequence[MeasuredCompletion]) -> Counts:
    return reduce(add, (each.counts for each in completions))


def _compared(
    recording: Recording, bench: MeasuredBench, temperatures: Sequence[float]
) -> Iterator[tuple[str, object, object]]:
    """What must be the same: its name, as it was recorded, and as it was measured."""
    about = recording.about
    yield "the target", about.get("target"), bench.target
    yield "the draft model", about.get("draft"), bench.draft
    yield "--max-tokens", about.get("max_tokens"), bench.max_tokens
    for temperature in temperatures:
        traces = recording.at(temperature)
        at = f"at temperature {temperature:g}"
        yield f"the number of prompts {at}", len(traces), len(bench.tasks)
        for number, (trace, task) in enumerate(zip(traces, bench.tasks, strict=True), start=1):
            yield f"prompt {number} {at}", trace.prompt_id, task.prompt_id
            yield f"the seed of prompt {number} {at}", trace.seed, task.seed


def _record_command(bench: MeasuredBench, trace_file: Path) -> str:
    settings = bench.settings
    models = [
        part
        for name in ("preset", "target", "draft")
        if settings.get(name)
        for part in (f"--{name}", str(settings[name]))
    ]
    return shlex.join(
        [
            *("sybil", "simulate", "record", "--count", str(len(bench.tasks)), "--max-tokens", str(bench.max_tokens)),
            *("--temperature", ",".join(f"{each:g}" for each in bench.temperatures())),
            *("--seed", str(bench.tasks[0].seed if bench.tasks else 0), *models, "--out", str(trace_file)),
        ]
    )
