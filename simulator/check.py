"""Checks the simulator against the engine: arms are played on traces of the same completions that were measured."""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simulator.experience import Experience
from simulator.files import UnusableFile
from simulator.measured import HOW_TO_MEASURE, MeasuredBench, MeasuredCompletion
from simulator.players.player import Outcome
from simulator.players.sybil import Sybil
from simulator.point import Point
from simulator.storage import Recording
from simulator.trace import Trace
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.types import Speculation

TOLERANCE = 0.10
OFF = "off"
_ARM = re.compile(r"(off|pipelined|hedged|auto)|lockstep-[1-9]\d*")
# Benchmark settings that are the same in every recording, and those that recordings do not have.
_RECORDED = {"repeat": 1, "dtype": "float32", "numerics": "exact"}
_UNSET = ("prompts", "draft_dtype", "grow_target", "grow_draft", "verifier_arguments", "drafter_arguments")

Completions = Sequence[MeasuredCompletion]


@dataclass(frozen=True, slots=True)
class CheckedArm:
    """An arm as measured, and as simulated with the times that it was measured under.

    Attributes:
        ratio, simulated_ratio: speed of decoding as a multiple of plain decoding.
    """

    name: str
    point: Point
    measured: Outcome
    simulated: Outcome
    ratio: float
    simulated_ratio: float

    @property
    def difference(self) -> float:
        """Simulated / measured - 1: of the speed for `off`, of the ratio for other arms."""
        if self.name == OFF:
            return self.simulated.decode_tokens_per_second / self.measured.decode_tokens_per_second - 1
        return self.simulated_ratio / self.ratio - 1

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= TOLERANCE


@dataclass(frozen=True)
class CheckedRun:
    """One temperature.

    Attributes:
        compared: completions.
        left_out: completions whose text is not the recorded one.
    """

    temperature: float
    compared: int
    left_out: int
    arms: Sequence[CheckedArm]


def check_same(recording: Recording, trace_file: Path, bench: MeasuredBench, temperatures: Sequence[float]) -> None:
    """Refuse to compare different models, prompts or settings.

    Raises:
        UnusableFile: names what differs, and how to correct it.
    """
    for temperature in temperatures:
        if temperature not in bench.arms:
            known = ", ".join(f"{each:g}" for each in bench.arms)
            raise UnusableFile(
                f"{bench.file} holds nothing at temperature {temperature:g}, only at {known}; name one of these with "
                "--temperature, or leave it out"
            )
    for what, recorded, measured in _compared(recording, bench, temperatures):
        if recorded != measured:
            count, max_tokens, seed = len(bench.tasks), bench.max_tokens, bench.tasks[0].seed
            raise UnusableFile(
                f"{trace_file} and {bench.file} do not hold the same: {what} is {recorded} in the first, {measured} in "
                f"the second; measure with `{HOW_TO_MEASURE} {bench.file}`, and record the same models with `sybil "
                f"simulate record --count {count} --max-tokens {max_tokens} --temperature "
                f"{','.join(f'{each:g}' for each in bench.arms)} --seed {seed} --out {trace_file}`"
            )


def _compared(
    recording: Recording, bench: MeasuredBench, temperatures: Sequence[float]
) -> Iterator[tuple[str, object, object]]:
    """What must be the same: its name, its recorded value and its measured one."""
    about = recording.about
    for name, recorded in (_RECORDED | dict.fromkeys(_UNSET, "unset")).items():
        yield f"--{name.replace('_', '-')}", recorded, bench.settings.get(name) or recorded
    yield "the target", about.get("target"), str(bench.target)
    yield "the draft model", about.get("draft"), str(bench.draft).lower()
    yield "the type of the draft model", "float32", bench.draft.dtype if bench.draft else "float32"
    yield "--max-tokens", about.get("max_tokens"), bench.max_tokens
    for temperature in temperatures:
        traces = recording.at(temperature)
        yield f"the number of prompts at temperature {temperature:g}", len(traces), len(bench.tasks)
        for number, (trace, task) in enumerate(zip(traces, bench.tasks, strict=True), start=1):
            yield f"prompt {number} and its seed", (trace.prompt_id, trace.seed), (task.prompt_id, task.seed)


class EngineCheck:
    """Plays what was measured, in the same order, because the simulated services learn as they go."""

    def __init__(self, bench: MeasuredBench) -> None:
        self._bench = bench
        self._experience = Experience()

    def run(self, temperature: float, traces: Sequence[Trace]) -> CheckedRun:
        """Play every arm that was measured at a temperature, and compare.

        Args:
            traces: of the same prompts, see `check_same`.

        Raises:
            UnusableFile: no recorded text equals the measured one, or texts are too short.
        """
        file = self._bench.file
        every = {name: each for name, each in self._bench.arms[temperature].items() if _ARM.fullmatch(name)}
        same = [number for number, trace in enumerate(traces) if _is_measured(trace, number, every)]
        if not same:
            raise UnusableFile(
                f"at temperature {temperature:g} no text in {file} is the recorded one, so another version of this "
                f"engine or of its models wrote it; measure again with `{HOW_TO_MEASURE} {file}`, then record again"
            )
        compared = {name: [completions[number] for number in same] for name, completions in every.items()}
        measured = {name: sum((each.outcome for each in own), Outcome()) for name, own in compared.items()}
        # Each arm's passes take their measured mean. If rows cost time, those of `off` tell the time of one row.
        by_rows = self._bench.point.row_ms > 0
        points = {
            name: replace(point, verify_ms=measured[OFF if by_rows else name].pass_ms)
            for name, point in drafting_in_place(compared, self._bench.point).items()
        }
        simulated = self._play(points, traces, same)
        for outcome in (*measured.values(), *simulated.values()):
            if outcome.tokens <= outcome.first_tokens or outcome.duration_ms <= outcome.first_ms:
                raise UnusableFile(
                    f"the texts in {file} are so short that an arm is done after its first pass; measure and record "
                    "longer ones, with --max-tokens 96 for example"
                )
        arms = []
        for name, point in points.items():
            pairs = ((each[name], each[OFF]) for each in (measured, simulated))
            ratios = [one.decode_tokens_per_second / off.decode_tokens_per_second for one, off in pairs]
            arms.append(CheckedArm(name, point, measured[name], simulated[name], *ratios))
        return CheckedRun(temperature, len(same), len(traces) - len(same), arms)

    def _play(self, points: Mapping[str, Point], traces: Sequence[Trace], same: Sequence[int]) -> dict[str, Outcome]:
        """Play each arm at its point after a warm-up, in turns, as the benchmark measures them.

        Returns:
            For each arm, the sum over the traces that are compared.
        """
        players = {name: self._player(name) for name in points}
        for name, player in players.items():
            player.play(traces[0], points[name])
        outcomes = dict.fromkeys(players, Outcome())
        names = list(players)
        for number, trace in enumerate(traces):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                outcome = players[name].play(trace, points[name])
                outcomes[name] += outcome if number in same else Outcome()
        return outcomes

    def _player(self, name: str) -> Sybil:
        speculation, _, window_tokens = name.partition("-")
        asked = int(window_tokens or self._bench.window)
        return Sybil(Speculation(speculation), asked, self._bench.most_tokens, self._experience)


def drafting_in_place(measured: Mapping[str, Completions], point: Point) -> dict[str, Point]:
    """A point with the times of draft steps and round trips that each arm was measured under.

    Between two lockstep passes lie a round trip and the draft steps of a window, so two windows tell both apart. An arm
    that drafts ahead pushes after nearly every step; `auto` does so for a part of the time only, and then drafts as
    `hedged` does. The requested times are lower bounds: if one seems shorter, other work disturbed the measurement.
    """
    locksteps = {int(name.partition("-")[2]): each for name, each in measured.items() if "-" in name}
    draft_ms, rtt_ms = point.draft_ms, point.rtt_ms
    if len(locksteps) > 1:
        gaps_ms = [statistics.median(each.gap_p50_ns for each in own) / 1e6 for own in locksteps.values()]
        draft_ms, rtt_ms = map(max, statistics.linear_regression(list(locksteps), gaps_ms), (draft_ms, rtt_ms))
    steps_ms = dict.fromkeys(measured, draft_ms)
    for name in {"pipelined", "hedged", "auto"} & measured.keys():
        pushes_ns = [each.push_p50_ns for each in measured.get("hedged" if name == "auto" else name, ())]
        steps_ms[name] = max(draft_ms, statistics.median(pushes_ns or [0]) / 1e6)
    return {name: replace(point, draft_ms=step_ms, rtt_ms=rtt_ms) for name, step_ms in steps_ms.items()}


def _is_measured(trace: Trace, number: int, arms: Mapping[str, Completions]) -> bool:
    """Whether every arm committed the recorded text."""
    fingerprint = Ledger(map(int, trace.target_ids), 0).fingerprint(len(trace))
    return all(int(completions[number].text_fingerprint, 16) == fingerprint for completions in arms.values())
