"""What proposers of this service guess for one session: a tree of their own, sent as blocks."""

from collections.abc import Iterator

from sybil_engine.core.draft_tree import DraftNode, DraftTree
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import Block, BlockOrigin
from sybil_engine.proposers.registry import Registry


class Proposals:
    """Asks the proposers that may not run in the verifier's process.

    Their tokens are branches, never a trunk: nobody waits for them.
    """

    # Further guesses are too unlikely to be sent.
    _LEAST_CHANCE = 0.1

    def __init__(
        self, registry: Registry, opening: SessionOpen, ledger: Ledger, noise: NoiseTape, vocabulary_size: int
    ) -> None:
        self._ledger = ledger
        self._tree = DraftTree(ledger)
        self._ensemble = registry.ensemble(opening, opening.drafters, ledger, self._tree, noise, vocabulary_size)
        # By fingerprint: tokens that were sent.
        self._sent: set[int] = set()

    def follow(self) -> None:
        """Follow the ledger."""
        self._tree.advance()
        self._ensemble.follow()
        self._sent = {each for each in self._sent if each in self._tree}

    def blocks(self, most_tokens: int) -> list[Block]:
        """What is guessed now and was not sent yet.

        Args:
            most_tokens: the longest path.
        """
        if not self._ensemble:
            return []
        self._ensemble.propose(most_tokens, self._LEAST_CHANCE)
        return list(self._unsent(self._tree.root))

    def close(self) -> None:
        """The session has ended."""
        self._ensemble.close()

    def _unsent(self, root: DraftNode) -> Iterator[Block]:
        """One block for each token, each after the token before it."""
        for node in root.walk():
            if node is root or node.fingerprint in self._sent:
                continue
            self._sent.add(node.fingerprint)
            assert node.parent is not None
            yield Block(
                node.position,
                node.parent.fingerprint,
                (node.token_id,),
                BlockOrigin.HEDGE,
                chances=(node.chance or 0.0,),
                known_tokens=len(self._ledger),
                drafter=node.drafter,
            )
