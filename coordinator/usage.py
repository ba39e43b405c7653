"""What a request took: counts, times, and how much drafting and verifying overlapped."""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Protocol

from sybil_engine.core.completion import Usage
from sybil_engine.core.session import Commit
from sybil_engine.core.types import Speculation

Interval = tuple[int, int]
"""Start and end, in nanoseconds of one clock."""


class DraftedBlock(Protocol):
    """The fields of a block that are counted."""

    @property
    def token_ids(self) -> Sized: ...

    @property
    def draft_ns(self) -> int: ...


class Meter:
    """Counts and times one request's messages. All times are of this process's clock."""

    def __init__(self) -> None:
        self._arrived_ns = self.now_ns()
        self._first_token_ns: int | None = None
        self._last_token_ns: int | None = None
        self._completion_tokens = 0
        self._drafted_tokens = 0
        self._tested_tokens = 0
        self._accepted_tokens = 0
        self._reopened_streams = 0
        self._drafting: list[Interval] = []
        self._verifying: list[Interval] = []
        self._relays_ns: list[int] = []
        self._gaps_ns: list[int] = []
        self._passes: Counter[Speculation] = Counter()
        self._way: Speculation | None = None
        self._reason = ""

    @staticmethod
    def now_ns() -> int:
        return time.perf_counter_ns()

    def drafted(self, block: DraftedBlock, arrived_ns: int) -> None:
        """Count a block; its draft passes ended when it arrived."""
        self._drafted_tokens += len(block.token_ids)
        # A drafter may report anything, but it cannot have drafted for longer than the request exists.
        draft_ns = min(block.draft_ns, arrived_ns - self._arrived_ns)
        self._drafting.append((arrived_ns - draft_ns, arrived_ns))

    def committed(self, commit: Commit, arrived_ns: int) -> None:
        """Count a commit; its verify pass ended when it arrived."""
        timings = commit.timings
        self._tested_tokens += count_tested(commit.judged, commit.accepted)
        self._accepted_tokens += commit.accepted
        self._verifying.append((arrived_ns - timings.forward_ns - timings.sampling_ns, arrived_ns))
        self._gaps_ns.append(timings.gap_ns)
        # A commit's plan takes effect after its pass. The first pass counts as what the first commit's plan says.
        self._passes[self._way or commit.plan.speculation] += 1
        self._way = commit.plan.speculation
        self._reason = commit.reason or self._reason

    def delivered(self, tokens: int) -> None:
        """Count tokens that the client gets."""
        if tokens:
            self._last_token_ns = self.now_ns()
            if self._first_token_ns is None:
                self._first_token_ns = self._last_token_ns
            self._completion_tokens += tokens

    def relayed(self, arrived_ns: int) -> None:
        """Note that a message that arrived at this time has been forwarded."""
        self._relays_ns.append(self.now_ns() - arrived_ns)

    def reopened(self) -> None:
        """Count a stream that was lost and replaced."""
        self._reopened_streams += 1

    @property
    def passes(self) -> Mapping[Speculation, int]:
        """Number of verify passes for each way of speculating."""
        return self._passes

    @property
    def reason(self) -> str:
        """Under AUTO, what was chosen and why."""
        return self._reason

    def usage(self, prompt_tokens: int) -> Usage:
        """What was counted so far."""
        first_ns = self._first_token_ns or self._arrived_ns
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self._completion_tokens,
            verify_passes=len(self._verifying),
            drafted_tokens=self._drafted_tokens,
            tested_tokens=self._tested_tokens,
            accepted_tokens=self._accepted_tokens,
            time_to_first_token_ns=first_ns - self._arrived_ns,
            total_ns=(self._last_token_ns or self._arrived_ns) - self._arrived_ns,
            # Commits may arrive together, but their passes ran one after the other.
            verify_ns=sum(end - start for start, end in self._verifying),
            overlap_ns=overlap_ns(self._drafting, self._verifying),
            reopened_streams=self._reopened_streams,
            draft_ns=length_ns(self._drafting),
            relay_p50_ns=median(self._relays_ns),
            gap_p50_ns=median(self._gaps_ns),
        )


def count_tested(judged: int, accepted: int) -> int:
    """How many drafted tokens were tested: up to the first rejection, which is counted too."""
    return min(accepted + 1, judged)


def length_ns(intervals: Iterable[Interval]) -> int:
    """Time covered by intervals, each instant counted once."""
    return sum(end - start for start, end in _united(intervals))


def overlap_ns(left: Iterable[Interval], right: Iterable[Interval]) -> int:
    """Time covered by intervals of both sides, each instant counted once."""
    others = _united(right)
    starts = [start for start, _ in others]
    total = 0
    for start, end in _united(left):
        for other_start, other_end in others[max(0, bisect_right(starts, start) - 1) :]:
            if other_start >= end:
                break
            total += max(0, min(end, other_end) - max(start, other_start))
    return total


def median(values: Sequence[int]) -> int:
    """The median; of an even number of values, the lower middle one. 0 if there are none."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0


def _united(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of intervals, as disjoint intervals in order."""
    united: list[Interval] = []
    for start, end in sorted(intervals):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end))
        else:
            united.append((start, end))
    return united
