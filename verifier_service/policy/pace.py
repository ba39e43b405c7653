"""Measurements of a session while the engine runs: draft times, round trips, acceptance."""

from collections.abc import Sequence
from operator import itemgetter

from sybil_engine.core.draft_tree import DraftNode
from sybil_engine.core.moving_mean import MovingMean
from sybil_engine.core.pass_times import PassTimes
from verifier_service.policy.load import Load
from verifier_service.policy.outlook import Outlook


class Pace:
    """Measurements of one session, and of the device it runs on.

    Args:
        pass_times: of passes during which a drafter works ahead.
        alone_times: of passes during which none does; None: the same.
        load: of the verifier; None: nobody else uses it.
        shares_processor: whether drafting takes time from verify passes.
    """

    # Priors: a drafter that is ten times as fast as its target, half a millisecond away.
    _PRIOR_DRAFT_TOKEN_NS = 1e6
    _PRIOR_ROUND_TRIP_NS = 0.5e6
    _PRIOR_ACCEPTANCE_RATE = 0.7
    _MOST_ACCEPTANCE_RATE = 0.97
    # P(the target draws a given hedge | it rejects the trunk's token), if the drafter reports no chance.
    _HEDGE_RATE = 0.3
    # Where both models share a processor: the share of a draft pass's time that verify passes lose.
    _LOST_TO_DRAFTING = 0.5
    # How much worse (Brier score) the drafter's chances may be than measured ones before they are ignored. An honest
    # drafter stayed below 0.1 in 56 sessions of the embedded pair.
    _TRUSTED_ERROR = 0.15

    def __init__(
        self,
        pass_times: PassTimes,
        alone_times: PassTimes | None = None,
        load: Load | None = None,
        *,
        shares_processor: bool = False,
    ) -> None:
        self._pass_times = pass_times
        self._alone_times = alone_times or pass_times
        self.load = load or Load()
        self._shares_processor = shares_processor
        self.draft_token_ns = MovingMean(self._PRIOR_DRAFT_TOKEN_NS, weight=0.2)
        self.round_trip_ns = MovingMean(self._PRIOR_ROUND_TRIP_NS, weight=0.2)
        self.acceptance_rate = MovingMean(self._PRIOR_ACCEPTANCE_RATE, weight=0.05)
        self._excess_error = MovingMean(0.0, weight=0.01)

    def saw_block(self, tokens: int, draft_ns: int, since_miss_ns: int | None) -> None:
        """Learn from drafted tokens.

        Args:
            draft_ns: time spent drafting them.
            since_miss_ns: time since the last commit, if that left nothing drafted and these tokens are the first
                after it; else None.
        """
        self.draft_token_ns.add(max(1, draft_ns / tokens))
        if since_miss_ns is not None:
            self.round_trip_ns.add(max(0, since_miss_ns - draft_ns))

    def saw_pass(self, tested_tokens: int, accepted_tokens: int) -> None:
        """Learn from a verify pass."""
        for index in range(tested_tokens):
            self.acceptance_rate.add(1.0 if index < accepted_tokens else 0.0)

    def saw_draw(self, node: DraftNode, token_id: int) -> None:
        """Compare the likeliest guess after a token with the drawn token, to learn whether chances can be trusted."""
        reported = [
            (child.chance, child) for child in node.children.values() if child.sent and child.chance is not None
        ]
        if reported:
            chance, guess = max(reported, key=itemgetter(0))
            drawn = guess.token_id == token_id
            self._excess_error.add((chance - drawn) ** 2 - (self._measured_chance(guess) - drawn) ** 2)

    def chance(self, node: DraftNode) -> float:
        """P(target draws this token | it drew the earlier ones), as reported by the drafter, else as measured."""
        return self._measured_chance(node) if node.chance is None else node.chance

    def trusted_chance(self, node: DraftNode) -> float:
        """The same, but as measured if the drafter's chances predict badly. Used where sessions compete for rows.

        Calibrated chances have a better Brier score than one rate for all tokens, whatever their distribution.
        """
        trusted = not node.sent or self._excess_error.value < self._TRUSTED_ERROR
        return self.chance(node) if trusted else self._measured_chance(node)

    def _measured_chance(self, node: DraftNode) -> float:
        on_trunk = node.parent is not None and node.parent.best_child() is node
        return self.acceptance_rate.value if on_trunk else self._HEDGE_RATE * (1 - self.acceptance_rate.value)

    def arrival_ns(self, ready_tokens: int, missing_tokens: int) -> float:
        """Expected time from a commit until the missing tokens arrive. If some are ready, drafting is already going on,
        and no round trip is needed.
        """
        if not missing_tokens:
            return 0.0
        round_trip_ns = 0 if ready_tokens else self.round_trip_ns.value
        return round_trip_ns + missing_tokens * self.draft_token_ns.value

    @property
    def pass_times(self) -> PassTimes:
        """Of passes during which a drafter works ahead; before the first of them, of the others."""
        return self._pass_times if self._pass_times.known else self._alone_times

    @property
    def alone_times(self) -> PassTimes:
        """Of passes during which no drafter works ahead; before the first of them, of the others."""
        return self._alone_times if self._alone_times.known else self._pass_times

    def outlook(self, most_tokens: int) -> Outlook:
        """What a pipelined session can expect in the long run."""
        return Outlook(
            min(self.acceptance_rate.value, self._MOST_ACCEPTANCE_RATE),
            self.pass_times.expected_ns,
            self.draft_token_ns.value,
            self.round_trip_ns.value,
            most_tokens,
        )

    def best_window(self, most_tokens: int) -> int:
        """The window that commits the most tokens per unit of time in lockstep.

        With acceptance rate a, a pass that judges w tokens commits (1 - a^(w+1)) / (1 - a) tokens on average. It costs
        its own time, plus the wait until the w tokens arrive.
        """
        return max(range(most_tokens + 1), key=self.committed_per_ns)

    def least_chance(self, window_tokens: int) -> float:
        """In lockstep: the chance of being reached that a token needs, for drafting another one after it to pay.

        Another token costs the time to draft and verify it. In that time, windows of this length would commit some
        tokens. It is accepted if the token before it is, and it is right itself.
        """
        token_ns = self.draft_token_ns.value + self.alone_times.row_ns
        return min(1.0, token_ns * self.committed_per_ns(window_tokens) / max(self.acceptance_rate.value, 0.1))

    def worthwhile(self, survivals: Sequence[float]) -> tuple[int, float]:
        """How many tokens of a path are worth their rows, and how many tokens a pass commits with them on average.

        Args:
            survivals: for each token the chance of being reached, decreasing.
        """
        times, expected = self.alone_times, 1.0
        for rows, chance in enumerate(survivals, start=1):
            if chance * times.expected_ns(rows) < times.row_ns * expected:
                return rows - 1, expected
            expected += chance
        return len(survivals), expected

    @property
    def least_worthwhile(self) -> float:
        """The chance of being reached below which hardly any token is worth its row."""
        return min(max(2 * self.alone_times.row_share, 0.05), 0.5)

    def committed_per_ns(self, window_tokens: int) -> float:
        """Tokens per nanosecond in lockstep."""
        arrival_ns = self.arrival_ns(0, window_tokens)
        pass_ns = self.alone_times.expected_ns(window_tokens + 1)
        return sum(self.acceptance_rate.value**depth for depth in range(window_tokens + 1)) / (pass_ns + arrival_ns)

    @property
    def row_price(self) -> float:
        """What a drafted token's row costs in company, in tokens; see `Load.price`."""
        row_ns = self.alone_times.row_ns
        if self._shares_processor:
            # A draft pass serves many sessions, and tells each of them all of its time.
            row_ns += self._LOST_TO_DRAFTING * self.draft_token_ns.value / self.load.sessions
        return self.load.price(row_ns)
