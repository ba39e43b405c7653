"""The results of `sybil bench --env emulated` that a simulation can be checked against."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simulator.players.player import Outcome
from simulator.point import Point
from simulator.storage import model_words, sentence
from sybil_engine.core.errors import InvalidRequest

HOW_TO_MEASURE = "sybil bench --env emulated --arms off,lockstep,pipelined,hedged,auto --peers none --json"


class UnusableBench(InvalidRequest):
    """A benchmark file is missing, cannot be read, or holds results that no simulation can be checked against."""


@dataclass(frozen=True, slots=True)
class MeasuredCompletion:
    """One completion by one arm; docs/benchmarks.md says what each figure is."""

    text_fingerprint: str
    completion_tokens: int
    first_tokens: int
    verify_passes: int
    time_to_first_token_ns: int
    total_ns: int
    verify_ns: int
    gap_p50_ns: int

    def __post_init__(self) -> None:
        for each in fields(self)[1:]:
            _whole(getattr(self, each.name))
        if not self.verify_passes:
            raise ValueError("it holds a completion without a verify pass")

    @property
    def outcome(self) -> Outcome:
        """The same in the form of a simulation's outcome; the time before the first pass counts as idle."""
        total_ms, first_ms = self.total_ns / 1e6, self.time_to_first_token_ns / 1e6
        idle_ms = total_ms - self.verify_ns / 1e6
        return Outcome(self.completion_tokens, self.verify_passes, total_ms, idle_ms, self.first_tokens, first_ms)


@dataclass(frozen=True)
class MeasuredBench:
    """One benchmark file.

    Attributes:
        point: the requested times.
        target, draft: their names in recordings.
        settings: every flag.
        most_tokens: the most drafted tokens of one path that a pass might judge.
        tasks: the id of each prompt, None if it is not built in, and its seed.
        runs: by temperature and arm, one completion for each task; each lockstep window is an arm, such as lockstep-5.
    """

    file: Path
    point: Point
    target: str
    draft: str
    settings: Mapping[str, Any]
    most_tokens: int
    tasks: Sequence[tuple[str | None, int]]
    runs: Mapping[float, Mapping[str, Sequence[MeasuredCompletion]]]


def load_bench(file: Path) -> MeasuredBench:
    """Read a benchmark file.

    Raises:
        UnusableBench: see there.
    """
    try:
        document = json.loads(file.read_text())
        environment = document["environment"]
        if not environment["emulated"]:
            raise UnusableBench(
                f"{file} was measured in the environment {environment['name']}, where passes have no set times; "
                f"measure with `{HOW_TO_MEASURE} {file}`"
            )
        return _bench(file, document)
    except FileNotFoundError:
        raise UnusableBench(f"no benchmark file {file}; write one with `{HOW_TO_MEASURE} {file}`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableBench(
            f"{file} is not a benchmark's file that can be compared with ({sentence(error)}); check the path, or "
            f"measure again with `{HOW_TO_MEASURE} FILE`"
        ) from error


def _bench(file: Path, document: Mapping[str, Any]) -> MeasuredBench:
    times, pair, settings = document["environment"], document["pair"], dict(document["settings"])
    target, draft = pair["target"], pair["draft"] or {"model": "none", "parameters": 0}
    tasks = [(task["prompt_id"], _whole(task["seed"])) for task in document["tasks"]]
    if not tasks or not document["runs"]:
        raise ValueError("it holds no completion")
    for name in ("max_tokens", "window"):
        _whole(settings[name])
    return MeasuredBench(
        file,
        Point(*(float(times[name]) for name in ("verify_ms", "draft_ms", "rtt_ms", "row_ms"))),
        model_words(target["model"], _whole(target["parameters"])),
        model_words(draft["model"], _whole(draft["parameters"])),
        settings,
        _whole(document["limits"]["max_window_tokens"]),
        tasks,
        {float(run["temperature"]): _arms(run["measurements"], len(tasks)) for run in document["runs"]},
    )


def _arms(measurements: Mapping[str, Any], tasks: int) -> dict[str, list[MeasuredCompletion]]:
    names = [each.name for each in fields(MeasuredCompletion)]
    arms = {
        arm: [MeasuredCompletion(**{name: record[name] for name in names}) for record in records]
        for arm, records in measurements.items()
    }
    if "off" not in arms:
        raise ValueError("it holds no arm off, of which all others are multiples")
    for arm, completions in arms.items():
        if len(completions) != tasks:
            raise ValueError(f"{arm} has {len(completions)} completions of {tasks} prompts")
    return arms


def _whole(value: object) -> int:
    # In Python, True is an int as well.
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} stands where a whole number must be")
    return value
