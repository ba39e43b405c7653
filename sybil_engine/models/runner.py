"""What a service asks of a model that is ready for passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sybil_engine.models.rows import Rows, Shape, TreeRows


@dataclass(frozen=True, slots=True, eq=False)
class PreparedTree:
    """A pass over trees that is ready to be made.

    Attributes:
        inputs: only the runner that prepared the pass knows what they are.
        row_counts: of each session, without padding.
    """

    inputs: Any
    row_counts: tuple[int, ...]


class Runner(Protocol):
    """One model, its KV cache, and the passes over both. Every call comes from one thread.

    A token's cell must be refilled as it was first filled: prompts by `prefill`, in the same parts; generated tokens by
    `forward`.
    """

    @property
    def device(self) -> torch.device:
        """Where logits are."""

    @property
    def context_tokens(self) -> int:
        """Positions run from 0 to one below this."""

    @property
    def prefill_tokens(self) -> int:
        """The most tokens of one `prefill`."""

    @property
    def max_rows(self) -> int:
        """The most rows of one session that fit a single pass; more are split over several."""

    @property
    def row_class(self) -> tuple[int, ...]:
        """Row counts of a pass, over all its sessions, that agree bit for bit; empty in fast mode."""

    @property
    def branch_cells(self) -> range:
        """Cells of a slot that belong to no position, for the tokens of branches."""

    @property
    def tree_cells(self) -> int:
        """The rows of a tree may lie in the cells of a slot below this one."""

    def allocate(self) -> int:
        """Take a slot for a session.

        Raises:
            Exhausted: every slot is taken.
        """

    def release(self, slot: int) -> None:
        """Give a slot back."""

    def keep_branch(self, slot: int, first_cell: int, position: int, tokens: int) -> None:
        """Move the cells of a judged branch to where its positions are.

        Args:
            first_cell: where the branch's cells lie.
            position: of its first token.
            tokens: how many there are.
        """

    def prefill(self, prompt: Rows) -> None:
        """Feed a part of a prompt: from position 0 on in parts of `prefill_tokens`, the last one may be shorter.

        Leave the prompt's last token to `forward`, which returns the logits of what follows.

        Raises:
            ContextExceeded: a position beyond the context.
        """

    def forward(self, batch: Sequence[Rows]) -> Tensor:
        """Feed each session's rows and return the logits of every row, in batch order.

        Args:
            batch: not empty.

        Returns:
            [total rows, vocabulary_size], float32.

        Raises:
            ContextExceeded: a position beyond the context.
        """

    def prepare_tree(self, batch: Sequence[TreeRows]) -> PreparedTree:
        """Prepare one pass whose rows stand on branches and see their own paths only.

        Args:
            batch: not empty, each session at most once.
        """

    def forward_tree(self, prepared: PreparedTree) -> Tensor:
        """Make a prepared pass and return the logits of every row, as `forward` does."""

    def warm_up_trees(self, most_rows: int) -> None:
        """Make passes over a single session's trees of up to `most_rows` rows, so that later ones are quick."""

    def fit(self, sessions: int, rows: int) -> Shape | None:
        """The shape of one pass over `sessions` of `rows` each; None if it takes several passes."""

    def padded(self, rows: int) -> int:
        """The rows that a pass over `rows` rows of a single session computes."""

    def padded_rows(self, batch: Sequence[Rows]) -> int:
        """The rows that `forward` computes for a batch, padding included."""
