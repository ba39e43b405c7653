"""Which shapes passes may have, and which of them fits a number of rows."""

from collections.abc import Sequence

from sybil_engine.models.rows import Shape


class AnyShape:
    """Fast mode: a pass may have any shape.

    Args:
        most_rows: of one session in one pass.
    """

    totals: tuple[int, ...] = ()

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows

    def fit(self, sessions: int, rows: int) -> Shape:
        """The shape without padding."""
        return sessions, rows


class ShapeClass:
    """Exact mode: shapes of a pass that agree bit for bit.

    Attributes:
        shapes: the smallest first.
        totals: the row counts of a pass over all its sessions.
        most_rows: of one session in one pass.
    """

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = tuple(sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape)))
        self.totals = tuple(sorted({sessions * rows for sessions, rows in self.shapes}))
        self.most_rows = max((rows for _, rows in self.shapes), default=0)
        most_sessions = max((sessions for sessions, _ in self.shapes), default=0)
        self._fits = {
            (sessions, rows): self._smallest(sessions, rows)
            for sessions in range(1, most_sessions + 1)
            for rows in range(1, self.most_rows + 1)
        }

    def __repr__(self) -> str:
        return f"ShapeClass(totals={self.totals}, shapes={len(self.shapes)})"

    def fit(self, sessions: int, rows: int) -> Shape | None:
        """The cheapest shape that holds this many sessions of `rows` each; None if there is none.

        Padding after rows is preferred to padding with whole sessions, which costs a copy of the cells in view.
        """
        return self._fits.get((sessions, rows))

    def _smallest(self, sessions: int, rows: int) -> Shape | None:
        holding = [shape for shape in self.shapes if shape[0] >= sessions and shape[1] >= rows]
        return min(holding, key=lambda shape: (shape[0] > sessions, shape[0] * shape[1], shape[0]), default=None)
