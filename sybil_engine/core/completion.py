"""What a client gets: deltas as tokens are decided, and at the end what the completion took."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sybil_engine.core.types import CommittedToken, FinishReason, Speculation, TokenOrigin


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


@dataclass(frozen=True, slots=True)
class Ending:
    """How a completion ended, and what it took.

    Attributes:
        seed: the one that was used.
        speculation: as asked for, or the default.
        usage: counts and times.
        passes: verify passes by how they speculated; under AUTO there may be several ways.
        reason: under AUTO, what was chosen and why.
    """

    finish_reason: FinishReason
    seed: int
    speculation: Speculation
    usage: Usage = Usage()
    passes: Mapping[Speculation, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a client gets next: tokens of one origin, and the text that became certain with them.

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
