"""What a client saw of one request: when its tokens came, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from sybil_engine.core.completion import Usage

Arrival = tuple[int, int]
"""When a message came, in ns of the machine's monotonic clock, and how many tokens it held."""

_BURST_NS = 1_000_000


class Status(Enum):
    """How a request ended. A refused one was turned away for lack of room; a late one passed its deadline."""

    COMPLETED = "completed"
    REFUSED = "refused"
    LATE = "late"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, as its client saw it.

    Attributes:
        index: requests of the same round, level and index have the same prompt and seed in every arm.
        due_ns: when it was sent; in an open loop when it should have been, so that a client that lags hides nothing.
        arrivals: of the messages that held tokens.
        end_ns: when the stream ended.
        error: why it did not complete, in the server's words.
        passes: verify passes for each way of speculating, by its name.
        reason: what `auto` chose and why.
    """

    index: int
    due_ns: int
    end_ns: int
    status: Status
    arrivals: tuple[Arrival, ...] = ()
    token_ids: tuple[int, ...] = ()
    error: str = ""
    usage: Usage = field(default_factory=Usage)
    passes: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def ttft_ns(self) -> int | None:
        """From when it was due to its first token; None without tokens."""
        return self.arrivals[0][0] - self.due_ns if self.arrivals else None

    @property
    def tpot_ns(self) -> float | None:
        """Mean time per output token after the first; None with fewer than two tokens."""
        if len(self.token_ids) < 2:
            return None
        return (self.arrivals[-1][0] - self.arrivals[0][0]) / (len(self.token_ids) - 1)

    @property
    def total_ns(self) -> int:
        return self.end_ns - self.due_ns


def bursts(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Messages that came within 1 ms, as one: a server may split what one pass decided into several messages."""
    merged: list[Arrival] = []
    for time_ns, tokens in arrivals:
        if merged and time_ns - merged[-1][0] < _BURST_NS:
            merged[-1] = (merged[-1][0], merged[-1][1] + tokens)
        else:
            merged.append((time_ns, tokens))
    return merged


def token_gaps_ns(arrivals: Sequence[Arrival]) -> list[float]:
    """The inter-token latency of each token after the first.

    The tokens of a burst share the time since the last burst evenly. Those that come with the first token waited 0.
    So the gaps add up to the time from the first burst to the last.
    """
    merged = bursts(arrivals)
    gaps = [0.0] * (merged[0][1] - 1) if merged else []
    for (before_ns, _), (time_ns, tokens) in pairwise(merged):
        gaps += [(time_ns - before_ns) / tokens] * tokens
    return gaps
