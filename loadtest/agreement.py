"""Whether the arms gave the same tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtest.measured import MeasuredSegment
from loadtest.record import RequestRecord, Status
from loadtest.segment import Segment
from sybil_engine.core.types import Speculation

_MOST_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Agreement:
    """Tokens of the same prompt and seed, arm by arm, against those of the arm that came first.

    Attributes:
        examples: which requests differ, in words.
    """

    compared_tokens: int
    differing_tokens: int
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, measured: Sequence[MeasuredSegment]) -> "Agreement":
        """A request that ended early is compared as far as it came."""
        first: dict[tuple[str, int], tuple[Speculation, RequestRecord]] = {}
        compared = differing = 0
        examples = []
        for segment, record in _compared(measured):
            arm, other = first.setdefault((segment.stage, record.index), (segment.arm, record))
            if other is record:
                continue
            tokens, differences = _differences(other, record)
            compared, differing = compared + tokens, differing + differences
            if differences:
                examples.append(f"{segment}, request {record.index}: not as {arm.value}")
        return cls(compared, differing, tuple(examples[:_MOST_EXAMPLES]))


def _compared(measured: Sequence[MeasuredSegment]) -> Iterator[tuple[Segment, RequestRecord]]:
    for each in measured:
        if not each.segment.own_head:
            yield from ((each.segment, record) for record in each.records)


def _differences(one: RequestRecord, other: RequestRecord) -> tuple[int, int]:
    """How many tokens two records of the same request were compared in, and how many differ."""
    both = (one.token_ids, other.token_ids)
    shorter, longer = sorted(map(len, both))
    whole = one.status is other.status is Status.COMPLETED
    differing = sum(left != right for left, right in zip(*both, strict=False)) + (longer - shorter if whole else 0)
    return longer if whole else shorter, differing
