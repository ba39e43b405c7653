"""Which drafted tokens a verify pass judges: row control."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from simulator.guess_tree import Guess, trunk
from simulator.point import Point


class RowControl(Protocol):
    """Chooses rows among what has been drafted."""

    @property
    def name(self) -> str:
        """In a word."""

    def choose(self, root: Guess, point: Point) -> list[Guess]:
        """The guesses that the next pass judges, each behind its parent."""


@dataclass(frozen=True, slots=True)
class TrunkRows:
    """The trunk, as far as each further row pays."""

    most_rows: int

    @property
    def name(self) -> str:
        """See `RowControl.name`."""
        return f"up to {self.most_rows} rows"

    def choose(self, root: Guess, point: Point) -> list[Guess]:
        """See `RowControl.choose`."""
        return _while_they_pay(trunk(root), root, point, self.most_rows)


@dataclass(frozen=True, slots=True)
class BranchRows:
    """The trunk, and beside it the few branches that promise most, each a hedge and the best guesses behind it.

    A branch is judged in batch rows of its own, from the root on, so that its sums run in path order: it costs the rows
    of its part of the trunk once more.
    """

    most_rows: int
    most_branches: int

    @property
    def name(self) -> str:
        """See `RowControl.name`."""
        return f"up to {self.most_rows} rows and {self.most_branches} branches"

    def choose(self, root: Guess, point: Point) -> list[Guess]:
        """See `RowControl.choose`."""
        chosen = _while_they_pay(trunk(root), root, point, self.most_rows)
        expected = 1.0 + sum(_survival(guess, root) for guess in chosen)
        rows = len(chosen)
        branches = [
            [hedge, *trunk(hedge)][: self.most_rows] for fork in (root, *chosen) for hedge in (fork.children or ())[1:]
        ]
        branches.sort(key=lambda branch: -sum(_survival(guess, root) for guess in branch))
        for branch in branches[: self.most_branches]:
            worth = sum(_survival(guess, root) for guess in branch)
            branch_rows = branch[-1].position - root.position
            if worth * point.pass_ms(rows) < expected * branch_rows * point.row_ms:
                break
            chosen += branch
            rows += branch_rows
            expected += worth
        return chosen


@dataclass(frozen=True, slots=True)
class TreeRows:
    """Trunk and hedges, the most likely ones first, as far as each further row pays: tree verification."""

    most_rows: int

    @property
    def name(self) -> str:
        """See `RowControl.name`."""
        return f"tree of up to {self.most_rows} rows"

    def choose(self, root: Guess, point: Point) -> list[Guess]:
        """See `RowControl.choose`."""
        return _while_they_pay(_best_first(root), root, point, self.most_rows)


def _best_first(root: Guess) -> Iterator[Guess]:
    """Every guess below a root, those most likely to be reached first."""
    numbers = count()
    heap: list[tuple[float, int, Guess]] = []
    parent = root
    while True:
        for child in parent.children or ():
            heapq.heappush(heap, (child.cost, next(numbers), child))
        if not heap:
            return
        parent = heapq.heappop(heap)[2]
        yield parent


def _while_they_pay(guesses: Iterator[Guess], root: Guess, point: Point, most_rows: int) -> list[Guess]:
    """Rows are added while the expected tokens per millisecond of the pass still rise."""
    chosen: list[Guess] = []
    expected = 1.0
    for guess in guesses:
        survival = _survival(guess, root)
        if len(chosen) == most_rows or survival * point.pass_ms(len(chosen)) < expected * point.row_ms:
            break
        chosen.append(guess)
        expected += survival
    return chosen


def _survival(guess: Guess, root: Guess) -> float:
    """The chance that a guess below a root is reached."""
    return math.exp(root.cost - guess.cost)
