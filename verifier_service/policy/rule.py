"""What a rule is: it decides, after each commit, what drafting does next; and how long a pass waits for that."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from sybil_engine.core.plan import DraftPlan
from verifier_service.policy.pace import Pace

# An upper bound: the draft times that a drafter reports may be wrong, and a pass without drafts is still progress.
_MOST_PATIENCE_NS = 5_000_000_000
# Drafting ahead goes on during passes, so a pass that starts early loses little.
_PATIENCE_AHEAD = 2
# A drafter that takes ten times as long as expected is late or dead.
_PATIENCE = 10
_LEAST_PATIENCE_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class State:
    """A session's state when its next pass is planned.

    Attributes:
        ready_tokens: drafted tokens on the trunk.
        proposed: the best path of the proposers in this process: for each token the chance of being reached.
    """

    ready_tokens: int
    proposed: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class PassOutcome:
    """What a pass did for a session.

    Attributes:
        tokens: committed.
        now_ns: when.
        plain_pass_ns: the time that the pass, with the prompts fed before it, would have taken without what drafter
            services sent for this session.
        judged, accepted: tokens that drafter services sent.
        plain_tokens: that such a pass would have committed, on average.
    """

    tokens: int
    now_ns: int
    plain_pass_ns: float
    judged: int = 0
    accepted: int = 0
    plain_tokens: float = 1.0


class Rule(ABC):
    """How one session speculates. Chosen once, when the session opens.

    Attributes:
        pace: the measurements that it decides by.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    @property
    def reason(self) -> str:
        """Why it speculates as it does, if it chose that itself; else empty."""
        return ""

    @abstractmethod
    def next(self, state: State) -> DraftPlan:
        """Decide what drafting does next, and what the next pass waits for. Called once a commit; changes nothing."""

    def learn(self, outcome: PassOutcome) -> None:  # noqa: B027  a rule may have nothing to learn
        """Learn from a pass. Most rules learn nothing: the pace holds the measurements that they use."""


def patience_ns(plan: DraftPlan, pace: Pace, ready_tokens: int) -> int:
    """How long a pass waits, at most, for the tokens that its plan asks for.

    Args:
        ready_tokens: drafted tokens on the trunk when the wait begins.
    """
    arrival_ns = pace.arrival_ns(ready_tokens, max(0, plan.hold_until - ready_tokens))
    if plan.speculation.drafts_ahead:
        return min(int(_PATIENCE_AHEAD * arrival_ns), _MOST_PATIENCE_NS)
    return min(max(_LEAST_PATIENCE_NS, int(_PATIENCE * arrival_ns)), _MOST_PATIENCE_NS)
