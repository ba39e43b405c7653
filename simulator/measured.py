"""What `sybil bench --env emulated` measured, as far as a simulation can be checked against it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simulator.point import Point
from simulator.storage import model_words, sentence
from sybil_engine.core.errors import InvalidRequest

HOW_TO_MEASURE = "sybil bench --env emulated --arms off,lockstep,pipelined,hedged,auto --peers none --json"


class UnusableBench(InvalidRequest):
    """A file of the benchmark's is missing, cannot be read, or holds what no simulation can be checked against."""


@dataclass(frozen=True, slots=True)
class MeasuredCompletion:
    """One completion by one arm; docs/benchmarks.md says what each figure is.

    Attributes:
        text_fingerprint: of its tokens, prompt excluded, in hexadecimal.
    """

    text_fingerprint: str
    completion_tokens: int
    first_tokens: int
    verify_passes: int
    drafted_tokens: int
    time_to_first_token_ns: int
    total_ns: int
    verify_ns: int
    draft_ns: int
    gap_p50_ns: int

    def __post_init__(self) -> None:
        for each in fields(self)[1:]:
            _whole(getattr(self, each.name))
        if not self.verify_passes:
            raise ValueError("it holds a completion without a verify pass")


@dataclass(frozen=True)
class MeasuredBench:
    """One file of the benchmark's.

    Attributes:
        point: the times that were asked for.
        target, draft: as recordings name them.
        settings: every flag.
        most_tokens: the most drafted tokens of one path that a pass might judge.
        tasks: each prompt's id, None if it is no built-in one, and its seed.
        runs: by temperature and arm one completion a task; each lockstep window is an arm, lockstep-5 for example.
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
    """Read what a benchmark wrote.

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
    _whole(settings["max_tokens"])
    most_tokens = _whole(document["limits"]["max_window_tokens"])
    return MeasuredBench(
        file,
        Point(*(float(times[name]) for name in ("verify_ms", "draft_ms", "rtt_ms", "row_ms"))),
        model_words(target["model"], _whole(target["parameters"])),
        model_words(draft["model"], _whole(draft["parameters"])),
        settings,
        min(_whole(settings["window"]) or most_tokens, most_tokens),
        tasks,
        {float(run["temperature"]): _arms(run["measurements"], len(tasks)) for run in document["runs"]},
    )


def _arms(measurements: Mapping[str, Any], tasks: int) -> dict[str, list[MeasuredCompletion]]:
    names = [each.name for each in fields(MeasuredCompletion)]
    arms = {
        arm: [MeasuredCompletion(**{name: record[name] for name in names}) for record in records]
        for arm, records in measurements.items()
    }
    for arm, completions in arms.items():
        if len(completions) != tasks:
            raise ValueError(f"{arm} has {len(completions)} completions of {tasks} prompts")
    return arms


def _whole(value: object) -> int:
    # To Python, True is a whole number, too.
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} stands where a whole number must be")
    return value
