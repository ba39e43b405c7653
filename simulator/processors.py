"""The processors of a simulation: passes that run, and how far they slow one another down."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from sched import Event

from simulator.events import Events


@dataclass(eq=False)
class _Running:
    """A pass that runs.

    Attributes:
        left_ns: what it would still take alone.
    """

    left_ns: float
    last: bool
    end: Callable[[], None]
    event: Event | None = None


class Processors:
    """Runs passes in virtual time.

    Args:
        slowdown: how much longer a pass takes while another one runs, as a share of its time: 0 where each model has
            a processor of its own, 1 where they share a single core.
    """

    def __init__(self, events: Events, slowdown: float) -> None:
        self._events = events
        self._slowdown = slowdown
        self._running: list[_Running] = []
        self._since_ns = 0

    def run(self, work_ns: int, end: Callable[[], None], *, last: bool = False) -> None:
        """Start a pass.

        Args:
            work_ns: what it takes alone.
            end: called when it has ended.
            last: after all other actions of that time.
        """
        self._advance()
        self._running.append(_Running(work_ns, last, end))
        self._schedule()

    def _advance(self) -> None:
        """Account for the time since passes last started or ended."""
        for each in self._running:
            each.left_ns -= (self._events.now_ns - self._since_ns) / self._stretch
        self._since_ns = self._events.now_ns

    @property
    def _stretch(self) -> float:
        """How many times as long as alone a pass takes now."""
        return 1 + self._slowdown * (len(self._running) - 1)

    def _schedule(self) -> None:
        for each in self._running:
            if each.event is not None:
                if not self._slowdown:
                    continue
                self._events.cancel(each.event)
            end_ns = self._events.now_ns + max(0, math.ceil(each.left_ns * self._stretch))
            each.event = self._events.at(end_ns, partial(self._end, each), last=each.last)

    def _end(self, ended: _Running) -> None:
        self._advance()
        self._running.remove(ended)
        self._schedule()
        ended.end()
