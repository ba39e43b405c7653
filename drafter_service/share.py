"""One session's rows in a draft pass: which they are, and how its tree grows by them."""

from collections.abc import Iterator
from dataclasses import dataclass

from drafter_service.growth import Candidate, Drafted
from drafter_service.session import DrafterSession
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.models.rows import TreeRows
from sybil_engine.sampling.draw import Guess

MOST_GUESSES = 6
"""Guesses considered after each row of a hedged session; without hedges there is one."""

# Hedges get the rows that make a pass at most a quarter longer than one for the trunk alone.
_SLACK = 0.25


@dataclass(frozen=True, slots=True)
class DraftShare:
    """One session's rows in a draft pass.

    Attributes:
        candidates: what its tree grows by, one for each row; empty while the session catches up with its ledger.
    """

    session: DrafterSession
    rows: TreeRows
    candidates: tuple[Candidate, ...]

    @property
    def guessing_rows(self) -> int:
        """How many of its last rows are followed by a guess."""
        if self.candidates:
            return len(self.candidates)
        return 0 if self.session.unfed_tokens else 1

    def grow(self, guesses: Iterator[tuple[Guess, ...]]) -> list[Drafted]:
        """Grow the session's tree by the guesses after its guessing rows.

        Args:
            guesses: for each guessing row, best first; those of later shares follow.
        """
        if not self.candidates:
            return self.session.growth.grow_root(next(guesses))
        grown: list[Drafted] = []
        for candidate, cell in zip(self.candidates, self.rows.cells, strict=True):
            node, drafted = self.session.growth.grow(candidate, next(guesses))
            self.session.cells.keep(node, cell)
            grown += drafted
        return grown


def choose_rows(session: DrafterSession, most_rows: int, pass_times: PassTimes, *, sessions: int = 1) -> DraftShare:
    """Choose a session's rows: the ledger's tokens that have no cell, else candidates of its tree.

    Args:
        most_rows: of the whole pass.
        pass_times: of draft passes; they tell how many rows fit into the slack.
        sessions: that share the pass. Each gets at most an equal part of its rows and of the slack.
    """
    cells, most_rows = session.cells, most_rows // sessions
    if session.unfed_tokens:
        return DraftShare(session, cells.feed_ledger(most_rows), ())
    rows = 1
    if session.growth.hedges:
        slack_rows = (pass_times.rows_within(_SLACK) - 1) / sessions
        rows = int(min(most_rows, max(2, 1 + slack_rows), session.plan.rows))
    candidates = session.growth.take(rows, cells.hedge_cells)
    return DraftShare(session, cells.feed_candidates(candidates), tuple(candidates))
