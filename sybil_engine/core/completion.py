"""What a client gets: deltas as tokens are decided, what the completion took, and the rates that follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sybil_engine.core.acceptance import LOSSY
from sybil_engine.core.types import AcceptanceRule, CommittedToken, DrafterCount, FinishReason, Speculation, TokenOrigin


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts and times of one completion; see Usage in generation_service.proto for each."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    verify_passes: int = 0
    drafted_tokens: int = 0
    tested_tokens: int = 0
    accepted_tokens: int = 0
    time_to_first_token_ns: int = 0
    total_ns: int = 0
    verify_ns: int = 0
    overlap_ns: int = 0
    reopened_streams: int = 0
    draft_ns: int = 0
    relay_p50_ns: int = 0
    gap_p50_ns: int = 0
    push_p50_ns: int = 0
    cached_prompt_tokens: int = 0
    queue_ns: int = 0
    drafters: tuple[DrafterCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a completion ended, and what it took.

    Attributes:
        seed: the one that was used.
        speculation: as requested, or the default.
        usage: counts and times.
        passes: verify passes for each way of speculating; under AUTO there may be several.
        reason: under AUTO, what was chosen and why.
        acceptance_rule, acceptance_parameter: how drafted tokens were judged.
    """

    finish_reason: FinishReason
    seed: int
    speculation: Speculation
    usage: Usage = Usage()
    passes: Mapping[Speculation, int] = field(default_factory=dict)
    reason: str = ""
    acceptance_rule: AcceptanceRule = AcceptanceRule.SHARED_NOISE
    acceptance_parameter: float = 0.0

    @property
    def lossy(self) -> bool:
        """Whether tokens may not be the target's own."""
        return self.acceptance_rule in LOSSY


@dataclass(frozen=True, slots=True)
class Delta:
    """What a client gets next: tokens of one origin and one drafter, and the text that became certain with them.

    Attributes:
        text: never holds half a character, and may lag behind the tokens.
        ending: on the last delta only.
    """

    text: str
    tokens: tuple[CommittedToken, ...] = ()
    ending: Ending | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.token_id for token in self.tokens)

    @property
    def origin(self) -> TokenOrigin | None:
        """Where the tokens come from; None if there are none."""
        return self.tokens[0].origin if self.tokens else None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole completion.

    Attributes:
        tokens: with origins and, if asked for, log-probabilities.
        ending: why it ended, the seed that was used, and what it took.
    """

    text: str
    tokens: tuple[CommittedToken, ...]
    ending: Ending

    @classmethod
    def joined(cls, deltas: Sequence[Delta]) -> "Completion":
        """All deltas of one completion as one; the last one holds the ending."""
        ending = deltas[-1].ending
        assert ending is not None
        return cls(
            text="".join(delta.text for delta in deltas),
            tokens=tuple(token for delta in deltas for token in delta.tokens),
            ending=ending,
        )

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.token_id for token in self.tokens)

    @property
    def origins(self) -> tuple[TokenOrigin, ...]:
        """For each token, whether it was drafted and accepted, or is the target's own."""
        return tuple(token.origin for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Stats:
    """The rates of one completion, or of several together. A rate whose denominator is 0 is None.

    Attributes:
        tokens_per_second: completion tokens / time from the request's arrival to its last token.
        acceptance_rate: accepted / tested drafted tokens, where tested are those up to a pass's first rejection.
        draft_efficiency: accepted / drafted tokens.
        tokens_per_pass: completion tokens / verify passes.
        overlap: share of verify time during which the drafter was working on the same session.
        wasted_draft_tokens: drafted and never tested.
    """

    tokens_per_second: float | None
    time_to_first_token_ns: int | None
    acceptance_rate: float | None
    draft_efficiency: float | None
    tokens_per_pass: float | None
    overlap: float | None
    wasted_draft_tokens: int
    verify_passes: int

    @classmethod
    def of(cls, *usages: Usage) -> "Stats":
        """The rates of completions: each a ratio of sums."""

        def total(name: str) -> int:
            return sum(getattr(usage, name) for usage in usages)

        def ratio(numerator: str, denominator: str, unit: float = 1) -> float | None:
            return total(numerator) / (total(denominator) / unit) if total(denominator) else None

        return cls(
            tokens_per_second=ratio("completion_tokens", "total_ns", 1e9),
            time_to_first_token_ns=total("time_to_first_token_ns") or None,
            acceptance_rate=ratio("accepted_tokens", "tested_tokens"),
            draft_efficiency=ratio("accepted_tokens", "drafted_tokens"),
            tokens_per_pass=ratio("completion_tokens", "verify_passes"),
            overlap=ratio("overlap_ns", "verify_ns"),
            wasted_draft_tokens=total("drafted_tokens") - total("tested_tokens"),
            verify_passes=total("verify_passes"),
        )
