"""One completion as the client sees it: what is asked, the pieces that stream back, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sybil_cli.stats import Counts
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import (
    MOST_WINDOW_TOKENS,
    AcceptanceRule,
    FinishReason,
    ModelDescription,
    SamplingParams,
    Speculation,
    TokenOrigin,
)

_MOST_TOKENS = 2**31 - 1
_MOST_STOPS = 16


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What to complete, and how.

    Attributes:
        max_tokens: None leaves it to the coordinator.
        stop: text that ends the completion; it is not part of it.
        speculation: None leaves it to the coordinator.
        window_tokens: how many drafted tokens one pass may judge; 0 leaves it to the coordinator.

    Raises:
        InvalidRequest: a value is out of range. The coordinator would say the same; here nothing has to start first.
    """

    prompt: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    speculation: Speculation | None = None
    acceptance_rule: AcceptanceRule = AcceptanceRule.SHARED_NOISE
    window_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InvalidRequest("the prompt is empty; give at least one character to continue")
        try:
            self.prompt.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("the prompt is not valid UTF-8; convert it first") from None
        if not 0 <= self.seed < 2**64:
            raise InvalidRequest(f"seed is {self.seed}; it must fit 64 bits without a sign")
        if self.max_tokens is not None and not 1 <= self.max_tokens <= _MOST_TOKENS:
            raise InvalidRequest(f"max_tokens is {self.max_tokens}; it must be at least 1 and at most {_MOST_TOKENS}")
        if not 0 <= self.window_tokens <= MOST_WINDOW_TOKENS:
            raise InvalidRequest(
                f"window is {self.window_tokens}; it must be at least 1 and at most {MOST_WINDOW_TOKENS}, or 0 for the "
                "default"
            )
        if "" in self.stop:
            raise InvalidRequest("a stop string is empty; give each at least one character")
        if len(self.stop) > _MOST_STOPS:
            raise InvalidRequest(f"{len(self.stop)} stop strings were given; at most {_MOST_STOPS} are allowed")


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens as they come, and the text that became certain with them: it may lag behind the tokens."""

    text: str
    token_ids: tuple[int, ...]
    origins: tuple[TokenOrigin, ...]

    @property
    def origin(self) -> TokenOrigin | None:
        """Where all of these tokens come from; None if there are none, or of both kinds."""
        return self.origins[0] if len(set(self.origins)) == 1 else None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a completion ended, and what it took.

    Attributes:
        passes: verify passes by how they speculated.
        reason: under `auto`, what was chosen and why.
    """

    finish_reason: FinishReason | None
    seed: int
    counts: Counts
    passes: Mapping[Speculation, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole completion."""

    text: str
    token_ids: tuple[int, ...]
    origins: tuple[TokenOrigin, ...]
    ending: Ending

    @classmethod
    def joined(cls, pieces: "list[Piece]", ending: Ending) -> "Completion":
        """All pieces of one completion as one."""
        return cls(
            text="".join(piece.text for piece in pieces),
            token_ids=tuple(token for piece in pieces for token in piece.token_ids),
            origins=tuple(origin for piece in pieces for origin in piece.origins),
            ending=ending,
        )


@dataclass(frozen=True, slots=True)
class Served:
    """The models behind a coordinator; no drafter may be attached."""

    target: ModelDescription
    draft: ModelDescription | None
