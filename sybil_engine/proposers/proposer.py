"""What a proposer is: it guesses what follows the text of one session, without a model."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol


class ServiceKind(Enum):
    """Where a proposer may run."""

    VERIFIER = "verifier"
    DRAFTER = "drafter"


EVERYWHERE = frozenset(ServiceKind)

MOST_CONTINUATIONS = 8
"""How many continuations of one path are read."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A token that may come next.

    Attributes:
        chance: P(target draws this token | it drew the earlier ones), averaged over the session's noise. A first
            estimate is enough: it is corrected by how often continuations of the same evidence were right.
        evidence: what the chance depends on, in a few coarse values, for example the length of a match and its rank.
            Continuations of equal evidence are measured together.
    """

    token_id: int
    chance: float
    evidence: Hashable = ()


class Proposer(Protocol):
    """Guesses for one session. Made with the session's `SessionOpen`; every call comes from one thread.

    Attributes:
        places: where it may run; by default in the verifier's process and in the drafter service.
        cost_ns: about how long one call of `continuations` takes, before it is measured.
    """

    places: ClassVar[frozenset[ServiceKind]] = EVERYWHERE
    cost_ns: ClassVar[int] = 10_000

    def follow(self, token_ids: Sequence[int]) -> None:
        """Take the next committed tokens: first the whole prompt, then those of each commit."""

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """The tokens that may follow the committed ones and these drafted ones, in any order; none is fine.

        Args:
            path: drafted tokens after the last committed one; often empty, or an earlier path and one token more.
        """

    def close(self) -> None:
        """The session has ended."""
        return
