"""Pass times by rows, as measured while an engine runs."""


class PassTimes:
    """How long a pass of so many rows takes on this device: a line through the passes seen, the latest counting most.

    Until something is seen: ten milliseconds, and nothing for a row.
    """

    _KEPT = 0.99
    _PRIOR_NS = 10e6
    _LEAST_SPREAD = 0.1

    def __init__(self) -> None:
        self._weight = self._rows = self._ns = self._rows_rows = self._rows_ns = 0.0

    def add(self, rows: int, pass_ns: int) -> None:
        """Learn from a pass."""
        self._weight = self._KEPT * self._weight + 1
        self._rows = self._KEPT * self._rows + rows
        self._ns = self._KEPT * self._ns + pass_ns
        self._rows_rows = self._KEPT * self._rows_rows + rows * rows
        self._rows_ns = self._KEPT * self._rows_ns + rows * pass_ns

    @property
    def row_ns(self) -> float:
        """What another row adds; never less than nothing."""
        spread = self._weight * self._rows_rows - self._rows**2
        if spread <= self._LEAST_SPREAD * self._weight**2:
            return 0.0
        return max(0.0, (self._weight * self._rows_ns - self._rows * self._ns) / spread)

    def rows_within(self, share: float) -> float:
        """How many rows a pass may have before it takes longer than one of a single row by more than this share."""
        return 1 + share * self.expected_ns(1) / self.row_ns if self.row_ns else float("inf")

    def expected_ns(self, rows: int) -> float:
        """Time of a pass of so many rows."""
        if not self._weight:
            return self._PRIOR_NS
        mean_rows, mean_ns = self._rows / self._weight, self._ns / self._weight
        # However steep the line: a pass of fewer rows is not expected to take less than a tenth of what was seen.
        return max(mean_ns + self.row_ns * (rows - mean_rows), mean_ns / 10)
