"""Pass times by rows, as measured while an engine runs."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Seen:
    """Passes of one size: how many, their mean time, and the number of the last one."""

    count: int = 0
    mean_ns: float = 0.0
    last: int = 0


class PassTimes:
    """How long a pass of so many rows takes on this device, the latest passes counting most.

    Where passes of about so many rows were seen, as long as those took: at some number of rows arithmetic takes over,
    or a library changes its code, and passes get longer at once. Elsewhere a line through all passes seen. Until
    something is seen: ten milliseconds, and nothing for a row.

    Args:
        padded: how many rows a pass of so many computes.
    """

    _KEPT = 0.99
    _PRIOR_NS = 10e6
    _LEAST_SPREAD = 0.1
    _WEIGHT = 0.1
    _ENOUGH = 5
    _REMEMBERED_PASSES = 500
    _FEW_ROWS = 8

    def __init__(self, padded: Callable[[int], int] = lambda rows: rows) -> None:
        self._padded = padded
        self._weight = self._rows = self._ns = self._rows_rows = self._rows_ns = 0.0
        self._passes = 0
        self._seen: dict[int, _Seen] = {}

    def add(self, rows: int, pass_ns: int) -> None:
        """Learn from a pass that computed so many rows."""
        self._weight = self._KEPT * self._weight + 1
        self._rows = self._KEPT * self._rows + rows
        self._ns = self._KEPT * self._ns + pass_ns
        self._rows_rows = self._KEPT * self._rows_rows + rows * rows
        self._rows_ns = self._KEPT * self._rows_ns + rows * pass_ns
        self._passes += 1
        seen = self._seen.setdefault(self._size(rows), _Seen())
        if not self._recent(seen):
            seen.count = 0
        seen.count += 1
        seen.last = self._passes
        seen.mean_ns += (pass_ns - seen.mean_ns) * max(self._WEIGHT, 1 / seen.count)

    @property
    def known(self) -> bool:
        """Whether anything was seen yet."""
        return self._passes > 0

    @property
    def row_ns(self) -> float:
        """What another row adds, on the line; never less than nothing."""
        spread = self._weight * self._rows_rows - self._rows**2
        if spread <= self._LEAST_SPREAD * self._weight**2:
            return 0.0
        return max(0.0, (self._weight * self._rows_ns - self._rows * self._ns) / spread)

    def rows_within(self, share: float) -> float:
        """How many rows a pass may have before it takes longer than one of a single row by more than this share."""
        return 1 + share * self._on_line_ns(1) / self.row_ns if self.row_ns else float("inf")

    def expected_ns(self, rows: int) -> float:
        """Time of a pass of so many rows."""
        rows = self._padded(rows)
        seen = self._seen.get(self._size(rows))
        return seen.mean_ns if seen and self._enough(seen) else self._on_line_ns(rows)

    def _enough(self, seen: _Seen) -> bool:
        return seen.count >= self._ENOUGH and self._recent(seen)

    def _recent(self, seen: _Seen) -> bool:
        """A size that was long not taken may have become worth another look."""
        return self._passes - seen.last < self._REMEMBERED_PASSES

    def _on_line_ns(self, rows: int) -> float:
        if not self._weight:
            return self._PRIOR_NS
        mean_rows, mean_ns = self._rows / self._weight, self._ns / self._weight
        # However steep the line: a pass of fewer rows is not expected to take less than a tenth of what was seen.
        return max(mean_ns + self.row_ns * (rows - mean_rows), mean_ns / 10)

    def _size(self, rows: int) -> int:
        """Few rows count one by one, more in steps of as many."""
        return rows if rows <= self._FEW_ROWS else -(-rows // self._FEW_ROWS) * self._FEW_ROWS
