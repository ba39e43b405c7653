"""What a request took: counts, times, and how much drafting and verifying overlapped."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from itertools import pairwise
from statistics import median_low
from typing import Protocol

from sybil_engine.core.completion import Usage
from sybil_engine.core.session import Commit, count_tested
from sybil_engine.core.types import MODEL_DRAFTER, DrafterCount, FinishReason, Speculation

Interval = tuple[int, int]
"""Start and end, in nanoseconds of one clock."""


class DraftedBlock(Protocol):
    """The fields of a block that are counted."""

    @property
    def token_ids(self) -> Sized: ...

    @property
    def draft_ns(self) -> int: ...


class Meter:
    """Counts and times one request's messages. All times are of this process's clock.

    Attributes:
        passes: number of verify passes for each way of speculating.
        way: how the latest plan speculates.
        reason: under AUTO, what was chosen and why.
        drafter: address of the drafter that was attached last; empty: none was.
        finish_reason: set with the last tokens.
    """

    now_ns = staticmethod(time.perf_counter_ns)

    def __init__(self) -> None:
        self.passes: Counter[Speculation] = Counter()
        self.reason = self.drafter = ""
        self.finish_reason: FinishReason | None = None
        self._arrived_ns = self._first_token_ns = self._last_token_ns = self.now_ns()
        self._completion_tokens = 0
        self._drafted_tokens = 0
        self._tested_tokens = 0
        self._accepted_tokens = 0
        self._reopened_streams = 0
        self._cached_prompt_tokens = 0
        self._queue_ns = 0
        self._drafting: list[Interval] = []
        self._verifying: list[Interval] = []
        self._relays_ns: list[int] = []
        self._gaps_ns: list[int] = []
        self._pushes_ns: dict[int, None] = {}
        self._by_drafter: dict[str, DrafterCount] = {}
        self.way: Speculation | None = None

    def admitted(self) -> None:
        """Note that the request has got its place."""
        self._queue_ns = self.now_ns() - self._arrived_ns

    def drafted(self, block: DraftedBlock, arrived_ns: int) -> None:
        """Count a block; its draft passes ended when it arrived. Blocks of one push arrive together."""
        self._pushes_ns[arrived_ns] = None
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
        for count in commit.drafters:
            self._by_drafter[count.drafter] = count.plus(self._by_drafter.get(count.drafter, DrafterCount("")))
            if count.drafter != MODEL_DRAFTER:
                # Proposers' tokens that are not judged never leave the verifier.
                self._drafted_tokens += count.judged
        # A commit's plan takes effect after its pass. The first pass counts as what the first commit's plan says.
        self.passes[self.way or commit.plan.speculation] += 1
        self.way = commit.plan.speculation
        self.reason = commit.reason or self.reason
        self._cached_prompt_tokens = max(self._cached_prompt_tokens, commit.cached_prompt_tokens)

    def delivered(self, tokens: int) -> None:
        """Count tokens that the client gets."""
        if tokens:
            self._last_token_ns = self.now_ns()
            if not self._completion_tokens:
                self._first_token_ns = self._last_token_ns
            self._completion_tokens += tokens

    def relayed(self, arrived_ns: int) -> None:
        """Note that a message that arrived at this time has been forwarded."""
        self._relays_ns.append(self.now_ns() - arrived_ns)

    def reopened(self, service: str) -> None:
        """Count a stream that was lost and replaced: to a "verifier" or a "drafter"."""
        self._reopened_streams += 1

    def usage(self, prompt_tokens: int) -> Usage:
        """What was counted so far."""
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self._completion_tokens,
            verify_passes=len(self._verifying),
            drafted_tokens=self._drafted_tokens,
            tested_tokens=self._tested_tokens,
            accepted_tokens=self._accepted_tokens,
            time_to_first_token_ns=self._first_token_ns - self._arrived_ns,
            total_ns=self._last_token_ns - self._arrived_ns,
            # Commits may arrive together, but their passes ran one after the other.
            verify_ns=sum(end - start for start, end in self._verifying),
            overlap_ns=overlap_ns(self._drafting, self._verifying),
            reopened_streams=self._reopened_streams,
            draft_ns=length_ns(self._drafting),
            relay_p50_ns=median_low(self._relays_ns or [0]),
            gap_p50_ns=median_low(self._gaps_ns or [0]),
            push_p50_ns=median_low([late - early for early, late in pairwise(self._pushes_ns)] or [0]),
            cached_prompt_tokens=self._cached_prompt_tokens,
            queue_ns=self._queue_ns,
            drafters=tuple(self._by_drafter.values()),
        )


def length_ns(intervals: Iterable[Interval]) -> int:
    """Time covered by intervals, each instant counted once."""
    total, ordered = 0, sorted(intervals)
    covered_until = ordered[0][0] if ordered else 0
    for start, end in ordered:
        total += max(0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return total


def overlap_ns(left: Sequence[Interval], right: Sequence[Interval]) -> int:
    """Time covered by intervals of both sides, each instant counted once."""
    return length_ns(left) + length_ns(right) - length_ns([*left, *right])
