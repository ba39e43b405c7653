"""The drafter's guesses as a tree of which one path, at most, is the target's text."""

from collections.abc import Iterator, Sequence

from simulator.calibration import Calibrated


class Guess:
    """One drafted token.

    Attributes:
        position: counted from the first token of the text; the prompt's last one is at -1.
        cost: minus the logarithm of its chance to be reached, counted from a root; it adds up along a path.
        on_path: whether it is the target's token and all before it are, too.
        children: the guesses behind it, best first, once a draft pass was fed with it.
    """

    __slots__ = ("children", "cost", "on_path", "position")

    def __init__(self, position: int, cost: float, on_path: bool) -> None:
        self.position = position
        self.cost = cost
        self.on_path = on_path
        self.children: list[Guess] | None = None


class GuessTree:
    """Grows what the drafter would say: along the target's text what it said in the trace.

    Behind a wrong guess the trace knows nothing. The guesses there are never committed; how sure the drafter is of them
    matters only for the room that they take, and is borrowed from the same position of the text.
    """

    def __init__(self, calibrated: Calibrated) -> None:
        self._ranks = calibrated.trace.shared_ranks
        self._costs: Sequence[Sequence[float]] = calibrated.costs
        self._committed: list[Guess | None] = [None] * len(self._ranks)
        self.root = Guess(-1, 0.0, on_path=True)

    def expand(self, guess: Guess) -> list[Guess]:
        """Feed a guess, which yields the guesses behind it."""
        if guess.children is None:
            position = guess.position + 1
            known = position < len(self._ranks)
            costs = self._costs[position if known else -1]
            right = self._ranks[position] if guess.on_path and known else -1
            guess.children = [Guess(position, guess.cost + cost, on_path=False) for cost in costs]
            if 0 <= right < len(costs):
                guess.children[right] = self._on_path(position, guess.children[right].cost)
        return guess.children

    def committed(self, position: int) -> Guess:
        """The target's token at a position, as the root of what comes behind it; drafted or not."""
        guess = self._committed[position]
        if guess is None:
            guess = self._committed[position] = Guess(position, 0.0, on_path=True)
        return guess

    def _on_path(self, position: int, cost: float) -> Guess:
        guess = self.committed(position)
        # If the verifier committed it already, the drafter has yet to hear of it, and rates it like any other guess.
        if guess.children is None:
            guess.cost = cost
        return guess


def trunk(root: Guess) -> Iterator[Guess]:
    """The best guesses behind a root, as far as they are drafted."""
    guess = root
    while guess.children:
        guess = guess.children[0]
        yield guess


def unfed(root: Guess) -> Iterator[Guess]:
    """The guesses below a root that no draft pass was fed with yet, the root itself included."""
    stack = [root]
    while stack:
        guess = stack.pop()
        if guess.children is None:
            yield guess
        else:
            stack.extend(guess.children)
