"""Trace files: NumPy arrays of all completions joined together, and a JSON header."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.trace import RANKS, Trace
from sybil_engine.core.errors import InvalidRequest

_FORMAT = "sybil-traces-2"
_ABOUT_A_TRACE = {"prompt_id": str, "category": str, "temperature": float, "seed": int}
_RANKED = ("shared_ids", "shared_certainties", "own_ids")
_PER_TOKEN = {
    "target_ids": np.int32,
    "shared_ids": np.int32,
    "shared_certainties": np.float32,
    "own_ids": np.int32,
    "overlap": np.float32,
    "accepted": np.bool_,
    "own_draft_ids": np.int32,
    "bonus_chance": np.float32,
    "bonus_matched": np.bool_,
}
# Sums of single precision end a little above 1.
_MOST_CHANCE = 1.001


class UnusableTraces(InvalidRequest):
    """A trace file is missing, cannot be read, or holds something else."""


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


def model_words(model: str, parameters: int) -> str:
    """A model's name in a recording."""
    return f"{model}, {parameters:,} parameters"


def check_writable(file: Path) -> None:
    """Refuse a file that cannot be written, before an hour's work is lost.

    Raises:
        UnusableTraces: its folder is missing or may not be written to, or it is a folder itself.
    """
    if file.is_dir():
        raise UnusableTraces(f"{file} is a folder; name a file to write to")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UnusableTraces(f"{file} cannot be written; name a file in a folder that can be")


def save(recording: Recording, file: Path) -> None:
    """Write traces to a file."""
    header = {
        "format": _FORMAT,
        "about": dict(recording.about),
        "completions": [
            {**{name: getattr(trace, name) for name in _ABOUT_A_TRACE}, "tokens": len(trace)}
            for trace in recording.traces
        ],
    }
    arrays: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(trace, name) for trace in recording.traces]).astype(dtype)
        for name, dtype in _PER_TOKEN.items()
    }
    arrays["header"] = np.array(json.dumps(header))
    # Given an open file, NumPy adds no suffix to its name.
    with file.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def load(file: Path) -> Recording:
    """Read traces from a file.

    Raises:
        UnusableTraces: see there.
    """
    try:
        if file.is_file() and not zipfile.is_zipfile(file):
            raise ValueError("it is no NumPy archive")
        with np.load(file, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"its format is {header['format']}, this version reads {_FORMAT}")
            if not isinstance(header["about"], dict):
                raise ValueError("it does not say what was recorded")
            arrays = {name: _checked(name, stored[name].astype(dtype)) for name, dtype in _PER_TOKEN.items()}
        return Recording(_cut(header["completions"], arrays), header["about"])
    except FileNotFoundError:
        raise UnusableTraces(f"no trace file {file}; record one with `sybil simulate record --out {file}`") from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UnusableTraces(
            f"{file} is not a trace file that can be played ({sentence(error)}); record it again with "
            "`sybil simulate record`"
        ) from error


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.shape[1:] != ((RANKS,) if name in _RANKED else ()):
        raise ValueError(f"{name} has the shape {array.shape}")
    # All that is no whole number is a probability. No comparison holds for what is no number.
    if array.dtype.kind == "f" and not ((array >= 0) & (array <= _MOST_CHANCE)).all():
        raise ValueError(f"{name} holds what is no probability")
    return array


def _cut(completions: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> list[Trace]:
    lengths = [int(completion["tokens"]) for completion in completions]
    if not lengths or min(lengths) < 1:
        raise ValueError("it holds no completion, or an empty one")
    for name, array in arrays.items():
        if len(array) != sum(lengths):
            raise ValueError(f"{name} has {len(array)} tokens, the header says {sum(lengths)}")
    traces = []
    for completion, end, length in zip(completions, accumulate(lengths), lengths, strict=True):
        fields: dict[str, Any] = {name: array[end - length : end] for name, array in arrays.items()}
        traces.append(Trace(**fields, **{name: kind(completion[name]) for name, kind in _ABOUT_A_TRACE.items()}))
    return traces


def sentence(error: Exception) -> str:
    """What is wrong with a file, in a few words."""
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
