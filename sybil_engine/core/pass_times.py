"""Pass times by number of rows, measured while an engine runs."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median


@dataclass
class _Seen:
    """The latest passes of one size: their times and rows, and the number of the last one."""

    times_ns: deque[int]
    rows: deque[int]
    median_ns: float = 0.0
    last: int = 0


class PassTimes:
    """Predicts how long a pass of a given number of rows takes on this device.

    The prediction is the median of the recent passes of this size, or, if there are too few, a weighted line through
    the sizes seen. Sizes are kept apart because times jump: at some size arithmetic dominates, or a library switches
    kernels. Medians, because a pass that something else held up says nothing about its size. Before the first pass the
    prediction is 10 ms, with rows that cost nothing.

    Args:
        padded: how many rows a pass computes for a given number of rows.
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
        """Learn from a pass that computed this many rows."""
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
        """Whether a pass was seen yet."""
        return self._passes > 0

    @property
    def row_ns(self) -> float:
        """What another row adds, on the line; at least 0."""
        return self._through()[2]

    @property
    def row_share(self) -> float:
        """What another row adds, as a share of a pass of a single row."""
        return self.row_ns / self._on_line_ns(1)

    def rows_within(self, share: float) -> float:
        """The most rows for which a pass takes at most `1 + share` times as long as with one row."""
        return 1 + share / self.row_share if self.row_share else float("inf")

    def expected_ns(self, rows: int) -> float:
        """Predicted time of a pass of this many rows."""
        rows = self._padded(rows)
        seen = self._seen.get(self._size(rows))
        if seen and len(seen.times_ns) >= self._ENOUGH and self._recent(seen):
            return seen.median_ns
        return self._on_line_ns(rows)

    def _recent(self, seen: _Seen) -> bool:
        """Whether a size was measured recently enough to go by; load and clocks change."""
        return self._passes - seen.last < self._REMEMBERED_PASSES

    def _on_line_ns(self, rows: int) -> float:
        mean_rows, mean_ns, row_ns = self._through()
        # However steep the line is, no pass is expected to take less than a tenth of the mean.
        return max(mean_ns + row_ns * (rows - mean_rows), mean_ns / 10)

    def _through(self) -> tuple[float, float, float]:
        """The line: mean rows, mean nanoseconds, nanoseconds a row. A size's weight is its number of passes."""
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
        """Small sizes are kept one by one, larger ones in steps of eight rows."""
        return rows if rows <= self._FEW_ROWS else -(-rows // self._FEW_ROWS) * self._FEW_ROWS
