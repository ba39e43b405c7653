"""What opens a session and what advances it: openings, commits, advances."""

from dataclasses import dataclass
from functools import cached_property

from sybil_engine.core.acceptance import LOSSY, check_acceptance
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.types import (
    GREEDY,
    MODEL_DRAFTER,
    AcceptanceRule,
    CommittedToken,
    DrafterCount,
    FinishReason,
    PassTimings,
    SamplingParams,
)

NO_TIMINGS = PassTimings()

MOST_DRAFTERS_PER_SESSION = 8


@dataclass(frozen=True)
class Commit:
    """The target's next tokens.

    Attributes:
        position: of the first committed token.
        prefix_fingerprint: rolling fingerprint of all tokens before `position`.
        judged: drafted tokens that the pass judged.
        accepted: how many of them it accepted; those after the first rejection were not tested.
        plan: what drafting should do next.
        finish_reason: set on a session's last commit.
        reason: under AUTO, on the last commit: what was chosen, and why.
        cached_prompt_tokens: prompt tokens that were not fed, since their cells were kept from earlier sessions.
        drafters: of those whose tokens were judged.
    """

    position: int
    prefix_fingerprint: int
    tokens: tuple[CommittedToken, ...]
    judged: int = 0
    accepted: int = 0
    plan: DraftPlan = NO_DRAFTING
    timings: PassTimings = NO_TIMINGS
    finish_reason: FinishReason | None = None
    reason: str = ""
    cached_prompt_tokens: int = 0
    drafters: tuple[DrafterCount, ...] = ()

    @cached_property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.token_id for token in self.tokens)

    @property
    def advance(self) -> "Advance":
        """The part that a drafter reads."""
        return Advance(self.position, self.prefix_fingerprint, self.token_ids, self.plan)


def count_tested(judged: int, accepted: int) -> int:
    """How many drafted tokens were tested: up to the first rejection, which is counted too."""
    return min(accepted + 1, judged)


@dataclass(frozen=True, slots=True)
class Advance:
    """The part of a commit that a drafter reads; see `Commit`."""

    position: int
    prefix_fingerprint: int
    token_ids: tuple[int, ...]
    plan: DraftPlan = NO_DRAFTING


@dataclass(frozen=True, slots=True)
class DrafterShare:
    """A drafter's part of the guesses, where several drafter services work for one session.

    Each follows the trunk, so that none depends on another. The branches that leave it are dealt out.

    Attributes:
        index: of this drafter, below `of`.
        of: how many share the work.

    Raises:
        InvalidRequest: a value is out of range.
    """

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of <= MOST_DRAFTERS_PER_SESSION:
            raise InvalidRequest(
                f"a drafter's share is {self.index} of {self.of}; the first must be below the second, which may be at "
                f"most {MOST_DRAFTERS_PER_SESSION}"
            )

    def owns(self, fingerprint: int) -> bool:
        """Whether a branch is this drafter's, by the fingerprint of its first token."""
        return fingerprint % self.of == self.index


WHOLE = DrafterShare()


@dataclass(frozen=True, slots=True)
class SessionOpen:
    """What opens, or reopens, a session; see protos/.../types.proto for each field.

    Raises:
        InvalidRequest: no tokens, or a count out of range.
    """

    token_ids: tuple[int, ...]
    prompt_tokens: int
    sampling: SamplingParams = GREEDY
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    max_position: int = 0
    plan: DraftPlan = NO_DRAFTING
    window_tokens: int = 0
    acceptance_rule: AcceptanceRule = AcceptanceRule.SHARED_NOISE
    acceptance_parameter: float = 0.0
    logprobs: bool = False
    session_id: str = ""
    shares_processor: bool = False
    priority: int = 0
    drafters: tuple[str, ...] = (MODEL_DRAFTER,)
    prediction: tuple[int, ...] = ()
    tenant: str = ""
    share: DrafterShare = WHOLE

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise InvalidRequest("the prompt is empty; send at least one token")
        if not 1 <= self.prompt_tokens <= len(self.token_ids):
            raise InvalidRequest(
                f"prompt_tokens is {self.prompt_tokens}; it must be at least 1 and at most {len(self.token_ids)}, "
                "the number of tokens sent"
            )
        if not 0 <= self.seed < 2**64:
            raise InvalidRequest(f"seed is {self.seed}; it must fit 64 bits without a sign")
        # A service has no settings of its own about this: the coordinator has asked for what it allows.
        check_acceptance(self.acceptance_rule, self.acceptance_parameter, allowed=LOSSY)

    @property
    def drafts_by_model(self) -> bool:
        """Whether drafter services take part."""
        return MODEL_DRAFTER in self.drafters
