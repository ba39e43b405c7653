"""All proposers of one session: their guesses hang in the session's draft tree, and compete there by chance."""

import heapq
from collections.abc import Sequence
from itertools import count

from sybil_engine.core.draft_tree import DraftNode, DraftTree
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.noise import NoiseTape
from sybil_engine.proposers.asked import Asked, Guessed
from sybil_engine.proposers.under_noise import rank


class Ensemble:
    """Asks proposers along the likeliest paths of a draft tree, whoever guessed these.

    Args:
        ledger, tree: the session's; only the tree is written.
        noise: the session's; None under greedy sampling.
    """

    # In one call of `propose`: bounds its time.
    _MOST_ASKED = 24
    # A drafted token whose drafter reports no chance.
    _UNKNOWN_CHANCE = 0.7

    def __init__(self, asked: Sequence[Asked], ledger: Ledger, tree: DraftTree, noise: NoiseTape | None) -> None:
        self._asked = asked
        self._ledger = ledger
        self._tree = tree
        self._noise = noise
        self._followed = 0
        # What was guessed after each node, by its fingerprint; and the likeliest of it.
        self._guessed: dict[int, list[tuple[Asked, list[Guessed]]]] = {}
        self._best: dict[int, tuple[int, float]] = {}
        self._numbers = count()
        self.follow()

    def __bool__(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._asked)

    def follow(self) -> None:
        """Follow the ledger and the tree, which did: learn from what the target drew, and hand it on."""
        if not self._asked:
            return
        for position in range(max(1, self._followed), len(self._ledger)):
            for asked, guessed in self._guessed.get(self._ledger.fingerprint(position), ()):
                asked.learn(guessed, self._ledger[position])
        fresh = self._ledger[self._followed :]
        self._followed = len(self._ledger)
        for asked in self._asked:
            asked.follow(fresh)
        # The root is asked again, by who knows more now.
        kept = [each for each in self._guessed if each in self._tree and each != self._tree.root.fingerprint]
        self._guessed = {each: self._guessed[each] for each in kept}
        self._best = {each: self._best[each] for each in kept if each in self._best}

    def propose(self, most_tokens: int, least_chance: float) -> None:
        """Add guesses to the tree, the likeliest first.

        Args:
            most_tokens: the longest path.
            least_chance: of being reached, for a token to be asked what follows it.
        """
        asking = [each for each in self._asked if not each.rests]
        if not asking or most_tokens < 1:
            return
        frontier: list[tuple[float, int, DraftNode, tuple[int, ...]]] = [(-1.0, 0, self._tree.root, ())]
        most_asked = self._MOST_ASKED
        while frontier and most_asked:
            reach, _, node, path = heapq.heappop(frontier)
            if node.fingerprint not in self._guessed:
                most_asked -= 1
                self._ask(asking, node, path)
            if len(path) + 1 >= most_tokens:
                continue
            for child in node.children.values():
                reached = reach * (self._UNKNOWN_CHANCE if child.chance is None else child.chance)
                if -reached >= least_chance:
                    heapq.heappush(frontier, (reached, next(self._numbers), child, (*path, child.token_id)))

    def survivals(self, most_tokens: int) -> list[float]:
        """For each token of the likeliest proposed path, the chance that the target's tokens come through it."""
        survivals: list[float] = []
        node: DraftNode | None = self._tree.root
        reach = 1.0
        while node and len(survivals) < most_tokens and (best := self._best.get(node.fingerprint)):
            token_id, chance = best
            reach *= chance
            survivals.append(reach)
            node = node.children.get(token_id)
        return survivals

    def saw_commit(self, accepted: Sequence[DraftNode], token_ns: float) -> None:
        """Tell each proposer what it brought.

        Args:
            accepted: the drafted tokens that were committed.
            token_ns: the time in which the session commits a token.
        """
        for asked in self._asked:
            asked.saw_commit(sum(node.drafter == asked.name for node in accepted), token_ns)

    def close(self) -> None:
        """The session has ended."""
        for asked in self._asked:
            asked.close()

    def _ask(self, asking: Sequence[Asked], node: DraftNode, path: tuple[int, ...]) -> None:
        answers = [(asked, guessed) for asked in asking if (guessed := asked.continuations(path))]
        self._guessed[node.fingerprint] = answers
        for asked, guessed in answers:
            for token_id, chance in self._ranked(guessed, node.position + 1):
                if len(self._tree) >= self._tree.capacity_tokens:
                    return
                self._tree.add(node, token_id, chance, drafter=asked.name, sent=False)
                if chance > self._best.get(node.fingerprint, (0, 0.0))[1]:
                    self._best[node.fingerprint] = token_id, chance

    def _ranked(self, guessed: Sequence[Guessed], position: int) -> list[tuple[int, float]]:
        token_ids = [each.continuation.token_id for each in guessed]
        chances = [each.chance for each in guessed]
        if self._noise is None:
            return list(zip(token_ids, chances, strict=True))
        return rank(token_ids, chances, self._noise.rows(position, 1)[0])
