"""How one session's draft tree grows: which tokens to feed next, what is drafted, and what survives a commit."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from drafter_service.calibration import Calibration
from sybil_engine.core.draft_tree import DraftNode, DraftTree
from sybil_engine.core.ledger import Ledger, extend_fingerprint
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.session import WHOLE, DrafterShare
from sybil_engine.core.types import BlockOrigin, Distribution
from sybil_engine.sampling.draw import Guess


@dataclass(frozen=True, slots=True)
class Candidate:
    """A guess that may be fed next, to draft tokens after it.

    Attributes:
        parent: the token before it, already fed.
        own_chance: P(target draws this token | it drew the earlier ones).
        chance: P(the target's tokens come through here).
        on_trunk: whether it and all drafted tokens before it were best guesses.
    """

    parent: DraftNode
    token_id: int
    own_chance: float
    chance: float
    on_trunk: bool


@dataclass(frozen=True, slots=True)
class Drafted:
    """A newly drafted token, with all that the verifier is told about it.

    Attributes:
        prefix: the token that it follows.
        chance: P(target draws this token | it drew the earlier ones).
        distribution: the distribution it was drawn from; only under the ratio test.
    """

    prefix: DraftNode
    token_id: int
    chance: float
    origin: BlockOrigin = BlockOrigin.HEDGE
    distribution: Distribution | None = None

    def follows(self, other: "Drafted") -> bool:
        """Whether it comes right after another one, on one path and of one origin. The root may have moved since."""
        return self.origin is other.origin and self.prefix.fingerprint == extend_fingerprint(
            other.prefix.fingerprint, other.token_id
        )


class Growth:
    """The draft tree of one session, and what may be fed next. `advance` rolls it back when the ledger disagrees.

    Args:
        ledger: read, never written.
        allows_hedges: whether hedges may be drafted besides the trunk.
        share: which hedges are this drafter's, if others draft for the session, too.
    """

    # A hedge is drafted only if its chance of being reached is at least this.
    _LEAST_CHANCE = 0.02
    # Runners-up are drafted even before any token is drafted after them: judged beside the trunk, one that is right
    # gains the token that the target draws after it.
    _MOST_RUNNERS_UP = 3

    def __init__(
        self, ledger: Ledger, calibration: Calibration, *, allows_hedges: bool = True, share: DrafterShare = WHOLE
    ) -> None:
        self._share = share
        self._ledger = ledger
        self._calibration = calibration
        self._allows_hedges = allows_hedges
        self.tree = DraftTree(ledger)
        # The guesses after each fed token, best first; by the token's fingerprint.
        self._guesses: dict[int, tuple[Guess, ...]] = {}
        self._plan = NO_DRAFTING
        self._depth = 0
        self._frontier: list[tuple[bool, float, int, Candidate]] | None = None
        self._added = 0

    @property
    def hedges(self) -> bool:
        """Whether runners-up are drafted and fed, not only the trunk."""
        return self._allows_hedges and self._plan.rows > 1

    def aim(self, plan: DraftPlan, depth: int) -> None:
        """Follow a new plan from now on.

        Args:
            depth: how many tokens may be drafted beyond the ledger on one path.
        """
        self._plan = plan
        self._depth = depth
        self._frontier = None

    def advance(self) -> None:
        """Follow the ledger: learn from what the target drew, and drop the branches that it contradicts."""
        for position in range(self.tree.position, len(self._ledger)):
            if guesses := self._guesses.get(self._ledger.fingerprint(position)):
                self._calibration.saw(guesses, self._ledger[position])
        self.tree.advance()
        self._frontier = None
        self._guesses = {each: guesses for each, guesses in self._guesses.items() if each in self.tree}

    def has_candidates(self, hedge_cells: int) -> bool:
        """Whether there is a candidate to feed.

        Args:
            hedge_cells: room for tokens that are not on the trunk.
        """
        frontier = self._candidates()
        return self._has_room and bool(frontier) and (frontier[0][-1].on_trunk or hedge_cells > 0)

    def take(self, most: int, hedge_cells: int) -> list[Candidate]:
        """Choose what to feed next: the trunk's tip, then hedges by decreasing chance."""
        frontier = self._candidates()
        taken: list[Candidate] = []
        while frontier and self._has_room and len(taken) < most:
            if not frontier[0][-1].on_trunk:
                if not hedge_cells:
                    break
                hedge_cells -= 1
            taken.append(heapq.heappop(frontier)[-1])
        return taken

    def grow_root(self, guesses: tuple[Guess, ...]) -> list[Drafted]:
        """Take the guesses after the ledger's last token, which was fed.

        Returns:
            The drafted token, and its runners-up.
        """
        self._frontier = None
        return self._follow(self.tree.root, guesses, 1.0, BlockOrigin.TRUNK)

    def grow(self, candidate: Candidate, guesses: tuple[Guess, ...]) -> tuple[DraftNode, list[Drafted]]:
        """Take the guesses after a candidate, which was fed.

        Returns:
            The candidate's node; and the newly drafted tokens: its own unless it was drafted before, the token after
            it, and that token's runners-up.
        """
        origin = BlockOrigin.TRUNK if candidate.on_trunk else BlockOrigin.HEDGE
        known = candidate.token_id in candidate.parent.children
        node = self.tree.add(candidate.parent, candidate.token_id, candidate.own_chance, on_trunk=candidate.on_trunk)
        own = [] if known else [Drafted(candidate.parent, candidate.token_id, candidate.own_chance, origin)]
        drafted = own + self._follow(node, guesses, candidate.chance, origin)
        if self._frontier is not None:
            for following in self._candidates_after(node, candidate.chance, candidate.on_trunk):
                self._add(self._frontier, following)
        return node, drafted

    def _follow(self, node: DraftNode, guesses: tuple[Guess, ...], chance: float, origin: BlockOrigin) -> list[Drafted]:
        """Draft the best guess after a fed token; its runners-up are for the verifier alone."""
        self._guesses[node.fingerprint] = guesses
        best, own_chance = guesses[0], self._calibration.chance(0, guesses[0].certainty)
        self.tree.add(node, best.token_id, own_chance, on_trunk=origin is BlockOrigin.TRUNK)
        drafted = [Drafted(node, best.token_id, own_chance, origin, best.distribution)]
        if self.hedges:
            for rank, guess in enumerate(guesses[1 : 1 + self._MOST_RUNNERS_UP], start=1):
                own_chance = self._calibration.chance(rank, guess.certainty)
                mine = origin is not BlockOrigin.TRUNK or self._owns(node, guess.token_id)
                if mine and chance * own_chance >= self._LEAST_CHANCE:
                    drafted.append(Drafted(node, guess.token_id, own_chance))
        return drafted

    def _owns(self, node: DraftNode, token_id: int) -> bool:
        """Whether a branch that leaves the trunk after a node is this drafter's."""
        return self._share.of == 1 or self._share.owns(extend_fingerprint(node.fingerprint, token_id))

    @property
    def _has_room(self) -> bool:
        # A hedge adds two tokens: its own, and the one after it.
        return len(self.tree) + 2 <= self.tree.capacity_tokens

    def _candidates(self) -> list[tuple[bool, float, int, Candidate]]:
        """What may be fed, as a heap; built again after the root or the plan has changed."""
        if self._frontier is None:
            self._frontier = []
            for candidate in self._candidates_after(self.tree.root, 1.0, True):
                self._add(self._frontier, candidate)
        return self._frontier

    def _add(self, frontier: list[tuple[bool, float, int, Candidate]], candidate: Candidate) -> None:
        self._added += 1
        heapq.heappush(frontier, (not candidate.on_trunk, -candidate.chance, self._added, candidate))

    def _candidates_after(self, node: DraftNode, chance: float, on_trunk: bool) -> Iterator[Candidate]:
        guesses = self._guesses.get(node.fingerprint)
        # Feeding a candidate drafts a token two positions after the node.
        if guesses is None or node.position + 2 > self.tree.root.position + self._depth:
            return
        for rank, guess in enumerate(guesses if self.hedges else guesses[:1]):
            guess_on_trunk = on_trunk and rank == 0
            if on_trunk and rank and not self._owns(node, guess.token_id):
                continue
            child = node.children.get(guess.token_id)
            # A chance that was sent to the verifier stays: both sides must use the same one.
            sent = None if child is None else child.chance
            own_chance = self._calibration.chance(rank, guess.certainty) if sent is None else sent
            guess_chance = chance * own_chance
            if guess_chance < (self._plan.least_chance if guess_on_trunk else self._LEAST_CHANCE):
                continue
            if child is not None and child.fingerprint in self._guesses:
                yield from self._candidates_after(child, guess_chance, guess_on_trunk)
            else:
                yield Candidate(node, guess.token_id, own_chance, guess_chance, guess_on_trunk)
