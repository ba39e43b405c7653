"""Figures that worker processes count while another process reads them."""

from collections.abc import Iterable
from ctypes import Array, c_longlong
from multiprocessing.context import SpawnContext
from typing import TYPE_CHECKING

from loadtest.record import Status

if TYPE_CHECKING:
    SharedNumbers = Array[c_longlong]

_NAMES = ("running", "tokens", "first_tokens", "ttft_ns", *(status.value for status in Status))
_PLACES = {name: place for place, name in enumerate(_NAMES)}


def shared_numbers(context: SpawnContext) -> "SharedNumbers":
    """One number for each figure, in memory that two processes share. Only one of them writes, so they need no lock."""
    return context.RawArray(c_longlong, len(_NAMES))


class Counters:
    """Counts the requests and tokens of one worker."""

    def __init__(self, numbers: "SharedNumbers") -> None:
        self._numbers = numbers

    def add(self, name: str, amount: int = 1) -> None:
        self._numbers[_PLACES[name]] += amount


def totals(workers: Iterable["SharedNumbers"]) -> dict[str, int]:
    """What the workers together have counted so far, by name."""
    return dict(zip(_NAMES, map(sum, zip(*workers, strict=True)), strict=True))
