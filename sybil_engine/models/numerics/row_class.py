"""Which row counts passes may have, and which of them holds a number of rows."""

from bisect import bisect_left
from collections.abc import Sequence


class AnyRows:
    """Fast mode: a pass may have any number of rows.

    Args:
        most_rows: of one pass.
    """

    totals: tuple[int, ...] = ()

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows

    def padded(self, rows: int) -> int:
        """The same number: nothing is padded."""
        return rows


class RowClass:
    """Exact mode: the row counts of a pass, over all its sessions, that agree bit for bit.

    Attributes:
        totals: in ascending order.
        most_rows: of one pass.
    """

    def __init__(self, totals: Sequence[int]) -> None:
        self.totals = tuple(totals)
        self.most_rows = self.totals[-1]

    def __repr__(self) -> str:
        return f"RowClass(totals={self.totals})"

    def padded(self, rows: int) -> int:
        """The least total that holds this many rows, at most `most_rows`."""
        return self.totals[bisect_left(self.totals, rows)]
