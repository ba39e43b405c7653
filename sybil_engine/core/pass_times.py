"""Pass times by rows, as measured while an engine runs."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median


@dataclass
class _Seen:
    """Passes of one size: their latest times and rows, and the number of the last one."""

    times_ns: deque[int]
    rows: deque[int]
    median_ns: float = 0.0
    last: int = 0


class PassTimes:
    """How long a pass of so many rows takes on this device, by the latest ones.

    Where passes of about so many rows were seen, as long as the middle one of those took: at some number of rows
    arithmetic takes over, or a library changes its code, and passes get longer at once. Elsewhere a line through the
    sizes seen. A pass that is held up by something else says nothing about its size, hence medians. Until something is
    seen: ten milliseconds, and nothing for a row.

    Args:
        padded: how many rows a pass of so many computes.
    """

    _KEPT = 15
    _PRIOR_NS = 10e6
    _LEAST_SPREAD = 0.1
    _ENOUGH = 5
    _REMEMBERED_PASSES = 500
    _FEW_ROWS = 8

    def __init__(self, padded: Callable[[int], int] = lambda rows: rows) -> None:
        self._padded = padded
        self._passes = 0
        self._seen: dict[int, _Seen] = {}
        self._line: tuple[float, float, float] | None = None

    def add(self, rows: int, pass_ns: int) -> None:
        """Learn from a pass that computed so many rows."""
        self._passes += 1
        size = self._size(rows)
        seen = self._seen.get(size)
        if seen is None or not self._recent(seen):
            seen = self._seen[size] = _Seen(deque(maxlen=self._KEPT), deque(maxlen=self._KEPT))
        seen.times_ns.append(pass_ns)
        seen.rows.append(rows)
        seen.median_ns = median(seen.times_ns)
        seen.last = self._passes
        self._line = None

    @property
    def known(self) -> bool:
        """Whether anything was seen yet."""
        return self._passes > 0

    @property
    def row_ns(self) -> float:
        """What another row adds, on the line; never less than nothing."""
        return self._through()[2]

    @property
    def row_share(self) -> float:
        """What another row adds, as a share of a pass of a single row."""
        return self.row_ns / self._on_line_ns(1)

    def rows_within(self, share: float) -> float:
        """How many rows a pass may have before it takes longer than one of a single row by more than this share."""
        return 1 + share / self.row_share if self.row_share else float("inf")

    def expected_ns(self, rows: int) -> float:
        """Time of a pass of so many rows."""
        rows = self._padded(rows)
        seen = self._seen.get(self._size(rows))
        return seen.median_ns if seen and self._enough(seen) else self._on_line_ns(rows)

    def _enough(self, seen: _Seen) -> bool:
        return len(seen.times_ns) >= self._ENOUGH and self._recent(seen)

    def _recent(self, seen: _Seen) -> bool:
        """A size that was long not taken may have become worth another look."""
        return self._passes - seen.last < self._REMEMBERED_PASSES

    def _on_line_ns(self, rows: int) -> float:
        mean_rows, mean_ns, row_ns = self._through()
        # However steep the line: a pass of fewer rows is not expected to take less than a tenth of what was seen.
        return max(mean_ns + row_ns * (rows - mean_rows), mean_ns / 10)

    def _through(self) -> tuple[float, float, float]:
        """The line: its middle, in rows and nanoseconds, and what a row adds. A size counts by the passes it is of."""
        if self._line is None:
            points = [
                (fmean(seen.rows), seen.median_ns, len(seen.rows)) for seen in self._seen.values() if self._recent(seen)
            ]
            weight = sum(count for _, _, count in points)
            if not weight:
                return 0.0, self._PRIOR_NS, 0.0
            mean_rows = sum(rows * count for rows, _, count in points) / weight
            mean_ns = sum(time_ns * count for _, time_ns, count in points) / weight
            spread = sum((rows - mean_rows) ** 2 * count for rows, _, count in points)
            slope = sum((rows - mean_rows) * (time_ns - mean_ns) * count for rows, time_ns, count in points)
            flat = spread <= self._LEAST_SPREAD * weight
            self._line = mean_rows, mean_ns, 0.0 if flat else max(0.0, slope / spread)
        return self._line

    def _size(self, rows: int) -> int:
        """Few rows count one by one, more in steps of as many."""
        return rows if rows <= self._FEW_ROWS else -(-rows // self._FEW_ROWS) * self._FEW_ROWS
