"""What a judge is: it decides which drafted tokens are accepted, and which token follows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from sybil_engine.core.types import Distribution


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A path of drafted tokens, and what one target pass computed for it.

    Attributes:
        seed: of the session.
        position: of the first drafted token.
        drafted: [window].
        distributions: [window], what each token was drawn from; empty unless the judge wants them.
        drawn: [window + 1], the target's own token at each of these positions and the next, under shared noise.
        shaped: [rows of the pass, vocabulary], the target's logits as `shape_logits` returns them.
        first_row: the window's first row among these.
    """

    seed: int
    position: int
    drafted: Sequence[int]
    distributions: Sequence[Distribution]
    drawn: Sequence[int]
    shaped: Tensor
    first_row: int = 0

    @property
    def own_shaped(self) -> Tensor:
        """[window + 1, vocabulary], the window's own rows of `shaped`."""
        return self.shaped[self.first_row :][: len(self.drawn)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a window commits: the accepted drafted tokens, then one token of the target's own."""

    token_ids: tuple[int, ...]

    @property
    def accepted(self) -> int:
        """How many drafted tokens are accepted."""
        return len(self.token_ids) - 1


class Judge(Protocol):
    """One rule of acceptance.

    Attributes:
        lossless: whether committed tokens have the target's distribution, whatever is drafted.
        wants_distributions: whether blocks must contain the distributions that their tokens were drawn from.
        allows_hedges: whether several drafted tokens may compete for one position.
    """

    lossless: ClassVar[bool]
    wants_distributions: ClassVar[bool]
    allows_hedges: ClassVar[bool]

    def judge(self, window: Window) -> Verdict:
        """Walk along a window until a drafted token is rejected."""
