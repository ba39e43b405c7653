"""The interface of a model that is ready for passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sybil_engine.models.pages import PagePool
from sybil_engine.models.rows import Rows, TreeRows


@dataclass(frozen=True, slots=True, eq=False)
class PreparedTree:
    """A pass over trees that is ready to run.

    Attributes:
        inputs: of a type that only the runner knows.
        row_counts: of each pass that it takes, without padding.
    """

    inputs: Any
    row_counts: tuple[int, ...]


class Runner(Protocol):
    """One model, its KV cache, and the passes over both. Every call comes from one thread.

    For the same bits, a token's cell must always be filled in the same way: prompts by `prefill`, in the same parts;
    generated tokens by `forward`.
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
        """The most rows of one pass, over all its sessions; more are split over several."""

    @property
    def row_class(self) -> tuple[int, ...]:
        """Row counts of a pass, over all its sessions, that agree bit for bit; empty in fast mode."""

    @property
    def branch_cells(self) -> range:
        """Cells of a slot that belong to no position, for the tokens of branches."""

    @property
    def tree_cells(self) -> int:
        """The number of cells of a slot that a tree's rows may use: those below this one."""

    @property
    def pool(self) -> PagePool:
        """Which sessions hold which cells. A session's cells are reserved there before they are fed."""

    def keep_branches(self, branches: Sequence[Rows]) -> None:
        """Move the cells of judged branches, as they were fed, to the cells of their positions.

        Args:
            branches: each with its first cell; of a session at most one.
        """

    def prefill(self, prompt: Rows) -> None:
        """Feed a part of a prompt: from position 0 on, in whole chunks, at most
        `prefill_tokens` of them; the prompt's last chunk may be shorter.

        Its whole pages may be used by other sessions from then on. Leave the prompt's last token to `forward`, which
        returns the logits of the next token.

        Raises:
            ContextExceeded: a position beyond the context.
        """

    def forward(self, batch: Sequence[Rows], *, alone: bool = False) -> Tensor:
        """Feed each session's rows and return the logits of every row, in batch order.

        Args:
            batch: not empty.
            alone: no drafter works meanwhile, so the pass may take more threads. Its bits stay the same.

        Returns:
            [total rows, vocabulary_size], float32.

        Raises:
            ContextExceeded: a position beyond the context.
        """

    def prepare_tree(self, batch: Sequence[TreeRows]) -> PreparedTree:
        """Prepare one pass whose rows belong to branches and see only their own paths.

        Args:
            batch: not empty, each session at most once.
        """

    def forward_tree(self, prepared: PreparedTree) -> Tensor:
        """Run a prepared pass and return the logits of every row, as `forward` does."""

    def padded(self, rows: int) -> int:
        """The rows that passes over this many rows compute."""

    def padded_rows(self, batch: Sequence[Rows]) -> int:
        """The rows that `forward` computes for a batch, padding included."""
