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
        after_hit = self._drafted_within(self._pass_ns[-1])
        # From a hit until the next miss: tokens and nanoseconds.
        hits = 1 / (1 - self._hits[after_hit]) if after_hit else 0.0
        self._hit = hits * self._committed[after_hit], hits * self._pass_ns[after_hit]
        # After a pass without drafts the first drafted token arrives a round trip later.
        first = self._drafted_within(self._pass_ns[0] - round_trip_ns)
        self._bare_hit = self._with_hits(first, self._pass_ns[first], self._hit) if first else (0.0, 0.0)
        cycles = (self._until_miss(window, 0) for window in range(most_tokens + 1))
        self._rate = max(tokens / time_ns for tokens, time_ns in cycles)

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

    def _until_miss(self, window: int, ready_tokens: int) -> tuple[float, float]:
        """The expected tokens and nanoseconds from now until a miss, if this window is next."""
        time_ns = self._pass_ns[window] + self._wait_ns(window, ready_tokens)
        return self._with_hits(window, time_ns, self._hit if window else self._bare_hit)

    def _with_hits(self, window: int, time_ns: float, hit: tuple[float, float]) -> tuple[float, float]:
        """A pass of this window and this time, and what a hit after it brings and takes."""
        hit_tokens, hit_ns = hit
        return self._committed[window] + self._hits[window] * hit_tokens, time_ns + self._hits[window] * hit_ns

    def _gain(self, window: int, ready_tokens: int) -> float:
        """Tokens until a miss, beyond those that this time would yield at the long-run rate."""
        tokens, time_ns = self._until_miss(window, ready_tokens)
        return tokens - self._rate * time_ns
