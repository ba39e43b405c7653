"""The results of `sybil bench --env emulated` that a simulation can be checked against."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasPath, BaseModel, Field, model_validator

from simulator.files import reading
from simulator.players.player import Outcome
from simulator.point import Point
from simulator.storage import model_words

HOW_TO_MEASURE = "sybil bench --env emulated --arms off,lockstep,pipelined,hedged,auto --peers none --json"

Whole = Annotated[int, Field(strict=True, ge=0)]


def _at(*path: str) -> Any:
    """A field that stands in this place of the file."""
    return Field(validation_alias=AliasPath(*path))


class MeasuredCompletion(BaseModel):
    """One completion by one arm; docs/benchmarks.md says what each figure is."""

    text_fingerprint: str
    completion_tokens: Whole
    first_tokens: Whole
    verify_passes: Annotated[Whole, Field(gt=0)]
    time_to_first_token_ns: Whole
    total_ns: Whole
    verify_ns: Whole
    gap_p50_ns: Whole
    push_p50_ns: Whole

    @property
    def outcome(self) -> Outcome:
        """The same in the form of a simulation's outcome; the time before the first pass counts as idle."""
        total_ms, first_ms = self.total_ns / 1e6, self.time_to_first_token_ns / 1e6
        idle_ms = total_ms - self.verify_ns / 1e6
        return Outcome(self.completion_tokens, self.verify_passes, total_ms, idle_ms, self.first_tokens, first_ms)


Arms = dict[str, list[MeasuredCompletion]]
"""One completion for each task, by arm; each lockstep window is an arm, such as lockstep-5."""


class _Model(BaseModel):
    model: str
    parameters: Whole
    dtype: str = "float32"

    def __str__(self) -> str:
        return model_words(self.model, self.parameters)


class _Task(BaseModel):
    prompt_id: str | None
    seed: Whole


class _MeasuredRun(BaseModel):
    temperature: float
    measurements: Arms


class MeasuredBench(BaseModel):
    """One benchmark file, as far as it is compared.

    Attributes:
        point: the requested times.
        settings: every flag.
        most_tokens: the most drafted tokens of one path that a pass might judge.
    """

    file: Path
    emulated: Literal[True] = _at("environment", "emulated")
    point: Point = _at("environment")
    target: _Model = _at("pair", "target")
    draft: _Model | None = _at("pair", "draft")
    settings: dict[str, Any]
    max_tokens: Whole = _at("settings", "max_tokens")
    window: Whole = _at("settings", "window")
    most_tokens: Whole = _at("limits", "max_window_tokens")
    tasks: list[_Task] = Field(min_length=1)
    runs: list[_MeasuredRun] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_whole(self) -> "MeasuredBench":
        for run in self.runs:
            if "off" not in run.measurements:
                raise ValueError("it holds no arm off, of which all others are multiples")
            for arm, completions in run.measurements.items():
                if len(completions) != len(self.tasks):
                    raise ValueError(f"{arm} has {len(completions)} completions of {len(self.tasks)} prompts")
        return self

    @property
    def arms(self) -> dict[float, Arms]:
        """What was measured, by temperature."""
        return {run.temperature: run.measurements for run in self.runs}


def load_bench(file: Path) -> MeasuredBench:
    """Read a benchmark file.

    Raises:
        UnusableFile: it is missing, or holds no results with which a simulation can be compared.
    """
    with reading(file, "benchmark file", HOW_TO_MEASURE):
        return MeasuredBench(**{**json.loads(file.read_bytes()), "file": file})
