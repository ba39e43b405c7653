"""What `sybil bench --env emulated` measured, as far as a simulation can be checked against it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from simulator.point import Point
from simulator.storage import model_words
from sybil_engine.core.errors import InvalidRequest

HOW_TO_MEASURE = "sybil bench --env emulated --arms off,lockstep,pipelined,hedged --peers none --json"


class UnusableBench(InvalidRequest):
    """A file of the benchmark's is missing, cannot be read, or holds what no simulation can be checked against."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted of a completion; of several, their sums.

    Attributes:
        first_tokens: committed by the first pass.
        time_to_first_token_ns, total_ns: until the first pass was over, and until the last one was.
        verify_ns: in verify passes.
        draft_ns: in draft passes.
    """

    completion_tokens: int
    first_tokens: int
    verify_passes: int
    drafted_tokens: int
    time_to_first_token_ns: int
    total_ns: int
    verify_ns: int
    draft_ns: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read what stands in the file."""
        return cls(**{each.name: _whole(record[each.name]) for each in fields(cls)})

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def decode_tokens(self) -> int:
        """Without the first pass."""
        return self.completion_tokens - self.first_tokens

    @property
    def decode_ns(self) -> int:
        """From the end of the first pass to that of the last one."""
        return self.total_ns - self.time_to_first_token_ns


@dataclass(frozen=True, slots=True)
class MeasuredCompletion:
    """One completion by one arm.

    Attributes:
        text_fingerprint: of its tokens, prompt excluded.
        gap_ns: the median time between two of its verify passes.
    """

    text_fingerprint: int
    counts: Counts
    gap_ns: int


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One temperature.

    Attributes:
        arms: for each arm one completion a task; every lockstep window is an arm of its own, lockstep-5 for example.
    """

    temperature: float
    arms: Mapping[str, Sequence[MeasuredCompletion]]


@dataclass(frozen=True, slots=True)
class MeasuredTask:
    """One prompt.

    Attributes:
        prompt_id: None if it is no built-in one.
    """

    prompt_id: str | None
    seed: int


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What our arms might do.

    Attributes:
        max_window_tokens: the most drafted tokens of the trunk that a pass judges.
        draft_rows: guesses that a draft pass extends when it hedges.
        branches: judged beside the trunk in a pass.
    """

    max_window_tokens: int
    draft_rows: int
    branches: int


@dataclass(frozen=True)
class MeasuredBench:
    """One file of the benchmark's.

    Attributes:
        point: the times that were asked for.
        target, draft: as recordings name them.
        settings: every flag.
        max_tokens: of a completion.
        window_tokens: what --window allowed a pass, 0 for what the limits allow.
    """

    file: Path
    point: Point
    target: str
    draft: str
    settings: Mapping[str, Any]
    max_tokens: int
    window_tokens: int
    limits: EngineLimits
    tasks: Sequence[MeasuredTask]
    runs: Sequence[MeasuredRun]

    def temperatures(self) -> list[float]:
        """In the order in which they were measured."""
        return [run.temperature for run in self.runs]

    def at(self, temperature: float) -> MeasuredRun | None:
        """The run at a temperature."""
        return next((run for run in self.runs if run.temperature == temperature), None)


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
        raise UnusableBench(
            f"no benchmark file {file}; write one with `{HOW_TO_MEASURE} {file}`, or check the path"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableBench(
            f"{file} is not a benchmark's file that can be compared with ({_sentence(error)}); check the path, or "
            f"measure again with `{HOW_TO_MEASURE} FILE`"
        ) from error


def _bench(file: Path, document: Mapping[str, Any]) -> MeasuredBench:
    times, pair, limits = document["environment"], document["pair"], document["limits"]
    target, draft = pair["target"], pair["draft"] or {"model": "none", "parameters": 0}
    settings = dict(document["settings"])
    tasks = [MeasuredTask(task["prompt_id"], _whole(task["seed"])) for task in document["tasks"]]
    if not tasks or not document["runs"]:
        raise ValueError("it holds no completion")
    return MeasuredBench(
        file,
        Point(*(float(times[name]) for name in ("verify_ms", "draft_ms", "rtt_ms", "row_ms"))),
        model_words(target["model"], _whole(target["parameters"])),
        model_words(draft["model"], _whole(draft["parameters"])),
        settings,
        _whole(settings["max_tokens"]),
        _whole(settings["window"]),
        EngineLimits(**{each.name: _above_zero(limits[each.name]) for each in fields(EngineLimits)}),
        tasks,
        [_run(run, len(tasks)) for run in document["runs"]],
    )


def _run(record: Mapping[str, Any], tasks: int) -> MeasuredRun:
    arms = {name: [_completion(each) for each in every] for name, every in record["measurements"].items()}
    for name, completions in arms.items():
        if len(completions) != tasks:
            raise ValueError(f"{name} has {len(completions)} completions of {tasks} prompts")
    return MeasuredRun(float(record["temperature"]), arms)


def _completion(record: Mapping[str, Any]) -> MeasuredCompletion:
    if not _whole(record["verify_passes"]):
        raise ValueError("it holds a completion without a verify pass")
    counts = Counts.of(record)
    if counts.decode_ns < 0 or counts.decode_tokens < 0:
        raise ValueError("a completion's first pass ends behind its last one, or commits more than all of them")
    return MeasuredCompletion(int(record["text_fingerprint"], 16), counts, gap_ns=_whole(record["gap_p50_ns"]))


def _whole(value: object) -> int:
    # True is a whole number, too, to Python.
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} stands where a whole number must be")
    return value


def _above_zero(value: object) -> int:
    number = _whole(value)
    if not number:
        raise ValueError("0 stands where a number above it must be")
    return number


def _sentence(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
