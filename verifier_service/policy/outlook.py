"""What waiting for drafts is worth when drafting goes on during passes: the long run counts, not the next pass.

Under draft-then-verify the drafter idles during a pass, so it pays to wait until the window is full. In a pipeline an
early pass is time in which drafts arrive, and they survive if the window is accepted and the token behind it was
drafted, too: a hit. So a session goes back and forth between two states. After a miss nothing is drafted; after a hit
there is what was drafted during the pass. How fast that is in the long run is what a cycle from miss to miss commits
over what it takes; a window is worth what it commits, plus what a hit behind it is worth, less its time at that rate.

Source: renewal-reward theorem; Howard 1960 (relative values of states).
"""

from collections.abc import Callable
from itertools import accumulate, repeat
from operator import mul


class Outlook:
    """A pipelined session in the long run, by what is measured of it.

    Args:
        acceptance_rate: below 1.
        pass_ns: by rows.
        draft_token_ns: between drafted tokens.
        round_trip_ns: from a commit that left nothing drafted until drafting is heard of, but for its own time.
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
        # By window: the chance that drafting goes on undisturbed, the tokens committed, the time.
        self._hits: list[float] = list(accumulate(repeat(acceptance_rate, most_tokens + 1), mul))
        self._committed: list[float] = list(accumulate(self._hits[:-1], initial=1.0))
        self._pass_ns = [pass_ns(window + 1) for window in range(most_tokens + 1)]
        self._after_hit = self._drafted_within(self._pass_ns[-1])
        # A pass that is launched with nothing drafted: the first token comes late.
        self._after_bare_hit = self._drafted_within(self._pass_ns[0] - round_trip_ns)
        self._rate = max(self._rate_with(window) for window in range(most_tokens + 1))
        self._hit_tokens = self._worth(self._after_hit) / (1 - self._hits[self._after_hit]) if self._after_hit else 0.0

    def best_window(self, ready_tokens: int) -> int:
        """The window to launch with when so many drafted tokens are here; what is missing of it is waited for."""
        first = min(ready_tokens, self._most_tokens)
        return max(range(first, self._most_tokens + 1), key=lambda window: self._gain(window, ready_tokens))

    def _drafted_within(self, time_ns: float) -> int:
        """Tokens ready after a hit: those drafted in this time, but for the first, which the pass itself draws."""
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
        """What a pass commits beyond what its time is worth."""
        return self._committed[window] - self._rate * self._pass_ns[window]

    def _gain(self, window: int, ready_tokens: int) -> float:
        hit_tokens = self._hit_tokens
        if not window:
            first = self._after_bare_hit
            hit_tokens = self._worth(first) + self._hits[first] * hit_tokens if first else 0.0
        wait_ns = self._wait_ns(window, ready_tokens)
        return self._worth(window) + self._hits[window] * hit_tokens - self._rate * wait_ns
