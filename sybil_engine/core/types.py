"""Frozen values that cross modules. Positions count tokens from the start of the prompt."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from sybil_engine.core.errors import InvalidRequest

HEDGED_DRAFT_ROWS = 8
"""By how many rows at most a draft pass grows a hedged session's tree."""

MOST_WINDOW_TOKENS = 64
"""The longest window that may be asked for; a verifier judges no more than its own --max-window-tokens."""


class Speculation(Enum):
    """Who drafts ahead, and when a verify pass starts."""

    OFF = "off"
    LOCKSTEP = "lockstep"
    PIPELINED = "pipelined"
    HEDGED = "hedged"
    AUTO = "auto"


class AcceptanceRule(Enum):
    """How a drafted token is judged."""

    SHARED_NOISE = "shared-noise"
    RATIO_TEST = "ratio-test"


class BlockOrigin(Enum):
    """Whether drafted tokens continue the drafter's best path or branch off it."""

    TRUNK = "trunk"
    HEDGE = "hedge"


class TokenOrigin(Enum):
    """Where a committed token comes from."""

    DRAFTED = "drafted"
    TARGET = "target"


class FinishReason(Enum):
    """Why a session ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the target's distribution is shaped, in this order: temperature, top-k, top-p, min-p.

    Raises:
        InvalidRequest: a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidRequest(f"temperature is {self.temperature}; it must be a finite number, 0 or more")
        if not 0 <= self.top_k < 2**31:
            raise InvalidRequest(f"top_k is {self.top_k}; it must be 0 (keep all) or more, and below 2**31")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 <= self.min_p < 1:
            raise InvalidRequest(f"min_p is {self.min_p}; it must be at least 0 and below 1")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class Distribution:
    """The drafter's most likely tokens, renormalised to 1: what the ratio test needs of a draft distribution."""

    token_ids: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Drafted tokens that extend one prefix.

    Attributes:
        position: of the first drafted token.
        prefix_fingerprint: rolling fingerprint of all tokens before `position`.
        distributions: one a token under the ratio test, else empty.
        draft_ns: time spent in draft passes for these tokens.
        chances: for each token the chance that the target draws it if it draws those before it; empty: not known.
        known_tokens: committed tokens that the drafter knew of when it drafted these.
    """

    position: int
    prefix_fingerprint: int
    token_ids: tuple[int, ...]
    origin: BlockOrigin = BlockOrigin.TRUNK
    distributions: tuple[Distribution, ...] = ()
    draft_ns: int = 0
    chances: tuple[float, ...] = ()
    known_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PassTimings:
    """How a verify pass spent its time.

    Attributes:
        wait_ns: from the session's previous commit, or its prefill, to the start of this pass.
        gap_ns: from the end of the engine's previous pass, whoever's it was, to the start of this one.
        forward_ns: in the model's forward call.
        sampling_ns: from the end of the forward call until the commit was ready.
    """

    wait_ns: int = 0
    gap_ns: int = 0
    forward_ns: int = 0
    sampling_ns: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """The target's next tokens.

    Attributes:
        position: of the first committed token.
        prefix_fingerprint: rolling fingerprint of all tokens before `position`.
        origins: one a token.
        logprobs: one a token if the session asked for them, else empty.
        draft_budget: how far ahead of this commit drafting is worth while now; 0 switches drafting off.
        window_tokens: drafted tokens that the pass judged.
        accepted_tokens: how many of them it accepted.
        finish_reason: set on a session's last commit.
        draft_rows: by how many rows a draft pass may grow the draft tree; 1 grows the trunk alone.
        speculation: what was in effect for the pass; None if the sender does not say.
        push_tokens: drafted tokens are held back while there are fewer than so many beyond the commit.
        reason: under AUTO, on the last commit: what was chosen, and why.
        least_chance: nothing is drafted on the trunk behind a token that has less of a chance to be reached.
    """

    position: int
    prefix_fingerprint: int
    token_ids: tuple[int, ...]
    origins: tuple[TokenOrigin, ...]
    logprobs: tuple[float, ...] = ()
    draft_budget: int = 0
    window_tokens: int = 0
    accepted_tokens: int = 0
    timings: PassTimings = PassTimings()
    finish_reason: FinishReason | None = None
    draft_rows: int = 1
    speculation: Speculation | None = None
    reason: str = ""
    push_tokens: int = 1
    least_chance: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionOpen:
    """What opens, or reopens, a session; see protos/.../types.proto for each field.

    Raises:
        InvalidRequest: no tokens, or a count out of range.
    """

    token_ids: tuple[int, ...]
    prompt_tokens: int
    sampling: SamplingParams = SamplingParams()
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    max_position: int = 0
    speculation: Speculation = Speculation.OFF
    window_tokens: int = 0
    acceptance_rule: AcceptanceRule = AcceptanceRule.SHARED_NOISE
    draft_budget: int = 0
    logprobs: bool = False
    session_id: str = ""
    draft_rows: int = 1
    push_tokens: int = 1
    shares_processor: bool = False

    @property
    def tests_ratios(self) -> bool:
        """Whether the ratio test judges drafted tokens; greedy ones stand if they are the target's either way."""
        return self.acceptance_rule is AcceptanceRule.RATIO_TEST and not self.sampling.greedy

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


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a service hosts.

    Attributes:
        tokenizer_fingerprint: SHA-256, hexadecimal, over all tokenizer parts.
        tokenizer_parts: the same for each part, so that a difference can be named.
        row_class: in exact mode, the row counts of a pass that agree bit for bit on this device.
        ready: False while weights load.
        processors: cores or GPUs that passes may run on, by names that services on one machine have in common.
        threads: how many of them a pass uses.
        kernels: what passes are made of: "stock" or "packed" on a processor, elsewhere the device's kind.
            Each computes bits of its own.
    """

    model_id: str
    architecture: str
    parameters: int
    vocabulary_size: int
    tokenizer_fingerprint: str
    tokenizer_parts: Mapping[str, str]
    end_token_ids: tuple[int, ...]
    begin_token_id: int | None
    context_tokens: int
    dtype: str
    device: str
    max_sessions: int = 0
    numerics: str = "fast"
    row_class: tuple[int, ...] = field(default=())
    ready: bool = False
    processors: tuple[str, ...] = ()
    threads: int = 1
    kernels: str = "stock"
