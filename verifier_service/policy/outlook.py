"""What waiting for drafts is worth when drafting goes on during passes, judged by the long-run token rate.

In lockstep the drafter idles during a pass, so it pays to wait until the window is full. In a pipeline, drafts arrive
while a pass runs. They survive if the whole window is accepted and the drafter also predicted the token after it: a
hit. So a session alternates between two states: after a miss nothing is drafted; after a hit, the tokens that were
drafted during the pass are ready.

The long-run rate is the tokens committed from one miss to the next, divided by the time that takes. A window's value is
the tokens it commits, plus the value of a hit after it, minus its time multiplied by the long-run rate.

Source: renewal-reward theorem; Howard 1960 (relative values of states).
"""

from collections.abc import Callable
from itertools import accumulate, repeat
from operator import mul


class Outlook:
    """What a pipelined session can expect in the long run, computed from its measurements.

    Args:
        acceptance_rate: below 1.
        pass_ns: time of a verify pass, by its rows.
        draft_token_ns: time to draft one token.
        round_trip_ns: from a commit that left nothing drafted until the next block arrives, drafting time excluded.
        most_tokens: the longest window.
    """

    def __init__(
        self,
        acceptance_rate: float,
        pass_ns: Callable[[int], float],
        draft_token_ns: float,
        round_trip_ns: float,
        most_tokens: int,
    ) -> None:
        self._most_tokens = most_tokens
        self._draft_token_ns = draft_token_ns
        self._round_trip_ns = round_trip_ns
        # For each window length: P(hit), the expected committed tokens, the time of the pass.
        self._hits: list[float] = list(accumulate(repeat(acceptance_rate, most_tokens + 1), mul))
        self._committed: list[float] = list(accumulate(self._hits[:-1], initial=1.0))
        self._pass_ns = [pass_ns(window + 1) for window in range(most_tokens + 1)]
        self._after_hit = self._drafted_within(self._pass_ns[-1])
        # After a pass without drafts the first drafted token arrives a round trip later.
        self._after_bare_hit = self._drafted_within(self._pass_ns[0] - round_trip_ns)
        self._rate = max(self._rate_with(window) for window in range(most_tokens + 1))
        self._hit_tokens = self._worth(self._after_hit) / (1 - self._hits[self._after_hit]) if self._after_hit else 0.0

    def best_window(self, ready_tokens: int) -> int:
        """The best window to verify next when this many drafted tokens are ready; missing ones are waited for."""
        first = min(ready_tokens, self._most_tokens)
        return max(range(first, self._most_tokens + 1), key=lambda window: self._gain(window, ready_tokens))

    def _drafted_within(self, time_ns: float) -> int:
        """Tokens ready after a hit: those drafted in this time, except the first, which the pass itself draws."""
        return max(0, min(self._most_tokens, int(time_ns / self._draft_token_ns) - 1))

    def _wait_ns(self, window: int, ready_tokens: int) -> float:
        missing = max(0, window - ready_tokens)
        return missing * self._draft_token_ns + (self._round_trip_ns if missing and not ready_tokens else 0.0)

    def _rate_with(self, window: int) -> float:
        """Tokens per nanosecond if every miss is followed by this window."""
        tokens, time_ns, hits = self._committed[window], self._pass_ns[window], self._hits[window]
        time_ns += self._wait_ns(window, 0)
        if not window:
            first = self._after_bare_hit
            hits = hits if first else 0.0
            tokens, time_ns = tokens + hits * self._committed[first], time_ns + hits * self._pass_ns[first]
            hits *= self._hits[first]
        hits = hits / (1 - self._hits[self._after_hit]) if self._after_hit else 0.0
        return (tokens + hits * self._committed[self._after_hit]) / (time_ns + hits * self._pass_ns[self._after_hit])

    def _worth(self, window: int) -> float:
        """Tokens that a pass commits beyond those its time would yield at the long-run rate."""
        return self._committed[window] - self._rate * self._pass_ns[window]

    def _gain(self, window: int, ready_tokens: int) -> float:
        hit_tokens = self._hit_tokens
        if not window:
            first = self._after_bare_hit
            hit_tokens = self._worth(first) + self._hits[first] * hit_tokens if first else 0.0
        wait_ns = self._wait_ns(window, ready_tokens)
        return self._worth(window) + self._hits[window] * hit_tokens - self._rate * wait_ns
