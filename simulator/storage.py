"""Trace files: NumPy arrays of all completions joined together, and a JSON header."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from simulator.files import reading
from simulator.trace import RANKS, Bools, Floats, Ints, Trace

_DTYPES: dict[Any, type[np.generic]] = {Ints: np.int32, Floats: np.float32, Bools: np.bool_}
_PER_TOKEN = {each.name: _DTYPES[each.type] for each in fields(Trace) if each.type in _DTYPES}
_RANKED = ("shared_ids", "shared_certainties", "own_ids")
# Sums of single precision end a little above 1.
_MOST_CHANCE = 1.001


@dataclass(frozen=True)
class Recording:
    """The content of a trace file.

    Attributes:
        about: how it was recorded: models, seed, limits.
    """

    traces: Sequence[Trace]
    about: Mapping[str, Any] = field(default_factory=dict)

    def temperatures(self) -> list[float]:
        """Each temperature once, ascending."""
        return sorted({trace.temperature for trace in self.traces})

    def at(self, temperature: float) -> list[Trace]:
        """The traces of one temperature."""
        return [trace for trace in self.traces if trace.temperature == temperature]


class _Completion(BaseModel):
    prompt_id: str
    temperature: float
    seed: int
    tokens: PositiveInt
    prompt_ids: tuple[NonNegativeInt, ...]
    vocabulary_size: NonNegativeInt


class _Header(BaseModel):
    format: Literal["sybil-traces-3"] = "sybil-traces-3"
    about: dict[str, Any]
    completions: list[_Completion] = Field(min_length=1)


def model_words(model: str, parameters: int) -> str:
    """A model's name in a recording."""
    return f"{model}, {parameters:,} parameters"


def save(recording: Recording, file: Path) -> None:
    """Write traces to a file."""
    completions = [
        _Completion(
            prompt_id=each.prompt_id,
            temperature=each.temperature,
            seed=each.seed,
            tokens=len(each),
            prompt_ids=each.prompt_ids,
            vocabulary_size=each.vocabulary_size,
        )
        for each in recording.traces
    ]
    header = _Header(about=dict(recording.about), completions=completions)
    arrays: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(trace, name) for trace in recording.traces]).astype(dtype)
        for name, dtype in _PER_TOKEN.items()
    }
    arrays["header"] = np.array(header.model_dump_json())
    # Given an open file, NumPy adds no suffix to its name.
    with file.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def load(file: Path) -> Recording:
    """Read traces from a file.

    Raises:
        UnusableFile: it is missing, or holds something else.
    """
    with reading(file, "trace file", "sybil simulate record --out"):
        if file.is_file() and not zipfile.is_zipfile(file):
            raise ValueError("it is no NumPy archive")
        with np.load(file, allow_pickle=False) as stored:
            header = _Header.model_validate_json(str(stored["header"]))
            arrays = {name: _checked(name, stored[name].astype(dtype)) for name, dtype in _PER_TOKEN.items()}
        return Recording(_cut(header.completions, arrays), header.about)


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.shape[1:] != ((RANKS,) if name in _RANKED else ()):
        raise ValueError(f"{name} has the shape {array.shape}")
    # All that is no whole number is a probability. No comparison holds for what is no number.
    if array.dtype.kind == "f" and not ((array >= 0) & (array <= _MOST_CHANCE)).all():
        raise ValueError(f"{name} holds what is no probability")
    return array


def _cut(completions: Sequence[_Completion], arrays: Mapping[str, NDArray[Any]]) -> list[Trace]:
    *ends, tokens = accumulate(completion.tokens for completion in completions)
    for name, array in arrays.items():
        if len(array) != tokens:
            raise ValueError(f"{name} has {len(array)} tokens, the header says {tokens}")
    parts: dict[str, Any] = {name: np.split(array, ends) for name, array in arrays.items()}
    return [
        Trace(**completion.model_dump(exclude={"tokens"}), **{name: each[number] for name, each in parts.items()})
        for number, completion in enumerate(completions)
    ]
