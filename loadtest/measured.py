"""What came of one segment, all workers together."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.record import RequestRecord
from loadtest.segment import Segment
from loadtest.worker import Part


@dataclass(frozen=True, slots=True)
class MeasuredSegment:
    """What came of one segment.

    Attributes:
        from_ns, until_ns: the time that throughput is of, from the end of the ramp on; see `_until_ns`.
        busy: share of a core that the busiest client process used.
        lost: the server went away.
    """

    segment: Segment
    records: tuple[RequestRecord, ...]
    from_ns: int
    until_ns: int
    busy: float
    processes: int
    lost: bool = False

    @classmethod
    def of(cls, segment: Segment, parts: Sequence[Part]) -> "MeasuredSegment":
        """All workers' parts of a segment together."""
        from_ns = segment.start_ns + int(segment.ramp_s * 1e9)
        records = sorted((each for part in parts for each in part.records), key=lambda each: each.due_ns)
        return cls(
            segment=segment,
            records=tuple(records),
            from_ns=from_ns,
            until_ns=max(from_ns, _until_ns(segment, parts)),
            busy=max(part.busy for part in parts),
            processes=len(parts),
            lost=any(part.lost for part in parts),
        )

    @property
    def window_s(self) -> float:
        return (self.until_ns - self.from_ns) / 1e9

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.window_s if self.window_s else 0.0

    @property
    def tokens(self) -> int:
        """Tokens that came in this time."""
        return sum(
            tokens
            for record in self.records
            for time_ns, tokens in record.arrivals
            if self.from_ns <= time_ns <= self.until_ns
        )

    @property
    def sending_s(self) -> float:
        """From the end of the ramp to the end of the last request."""
        ends = [record.end_ns for record in self.counted]
        return (max(ends) - self.from_ns) / 1e9 if ends else 0.0

    @property
    def counted(self) -> list[RequestRecord]:
        """Requests that were due after the ramp."""
        return [record for record in self.records if record.due_ns >= self.from_ns]


def _until_ns(segment: Segment, parts: Sequence[Part]) -> int:
    """When the time that throughput is of ends.

    A run for a time ends when a user has nothing left to send, so that the load is full all along. A run of a number of
    requests ends with the last of them, so that all arms have done the same work: when the first one ends, others may
    still wait for their first token.
    """
    if segment.requests is None or any(part.lost for part in parts):
        return min(part.full_until_ns for part in parts)
    return max((record.end_ns for part in parts for record in part.records), default=0)
