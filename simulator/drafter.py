"""The drafter of this engine: pass after pass, the trunk first, then hedges, until a commit moves its root."""

import heapq
import math
from collections import deque
from itertools import count

from simulator.calibration import LEAST_SURVIVAL
from simulator.guess_tree import Guess, GuessTree, unfed
from simulator.point import Point

_MOST_COST = -math.log(LEAST_SURVIVAL)


class Drafter:
    """Extends up to `rows` guesses in each pass: the trunk's tip, then those most likely to be reached.

    A pass under way is not broken off. Commits are heard between passes.

    Args:
        most_ahead: how many tokens it drafts beyond its root.
    """

    def __init__(self, tree: GuessTree, point: Point, rows: int, most_ahead: int) -> None:
        self._tree = tree
        self._draft_ms = point.draft_ms
        self._rows = rows
        self._most_ahead = most_ahead
        self._root = self._tip = tree.root
        self._commits: deque[tuple[float, Guess]] = deque()
        self._fed: list[Guess] = []
        self._pass_end_ms = 0.0
        # Guesses to feed, cheapest first; the number keeps the order where costs are equal.
        self._open: list[tuple[float, int, Guess]] = []
        self._number = count()
        self._push(tree.root)

    def tell(self, arrival_ms: float, root: Guess) -> None:
        """Send a commit that arrives at a time: later, never earlier, than the ones before it."""
        self._commits.append((arrival_ms, root))

    def run_until(self, time_ms: float) -> None:
        """Run every pass that ends by then."""
        while self.next_pass_end_ms() <= time_ms:
            self.finish_pass()

    def next_pass_end_ms(self) -> float:
        """When the pass under way ends; infinite if nothing is worth drafting until another commit."""
        if not self._fed:
            start_ms = self._pass_end_ms
            self._hear(start_ms)
            self._fed = self._choose()
            while not self._fed and self._commits:
                start_ms = self._commits[0][0]
                self._hear(start_ms)
                self._fed = self._choose()
            if not self._fed:
                return math.inf
            self._pass_end_ms = start_ms + self._draft_ms
        return self._pass_end_ms

    def finish_pass(self) -> None:
        """End the pass under way: what it fed has guesses behind it."""
        for guess in self._fed:
            children = self._tree.expand(guess)
            if self._rows > 1:
                for child in children:
                    self._push(child)
        self._fed = []
        self._follow_trunk()

    def _hear(self, time_ms: float) -> None:
        moved = False
        while self._commits and self._commits[0][0] <= time_ms:
            self._root = self._commits.popleft()[1]
            moved = True
        if moved:
            self._tip = self._root
            self._follow_trunk()
            self._open = []
            if self._rows > 1:
                for guess in unfed(self._root):
                    self._push(guess)

    def _choose(self) -> list[Guess]:
        chosen = [self._tip] if self._worth_while(self._tip) else []
        while len(chosen) < self._rows and self._open:
            entry = heapq.heappop(self._open)
            guess = entry[2]
            if guess.children is None and guess is not self._tip:
                chosen.append(guess)
        return chosen

    def _worth_while(self, guess: Guess) -> bool:
        return guess.cost - self._root.cost <= _MOST_COST and guess.position - self._root.position < self._most_ahead

    def _follow_trunk(self) -> None:
        while self._tip.children:
            self._tip = self._tip.children[0]

    def _push(self, guess: Guess) -> None:
        # What is not worth while may be so when the root has moved: then all are looked at again.
        if self._worth_while(guess):
            heapq.heappush(self._open, (guess.cost, next(self._number), guess))
