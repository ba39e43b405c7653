"""Frozen values that cross modules. Positions count tokens from the start of the prompt."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from sybil_engine.core.errors import InvalidRequest

MOST_WINDOW_TOKENS = 64
"""The longest window that may be requested; a verifier judges at most its own --max-window-tokens."""

MOST_MESSAGE_TOKENS = 1024
"""The most tokens that one message of a running session holds: as many drafted ones as a verifier keeps for it."""

MODEL_DRAFTER = "model"
"""The name of the draft model among the drafters of a request."""

PREDICTION = "prediction"
"""The name of the drafter that follows a client's own guess of the completion."""

DEFAULT_DRAFTERS = (MODEL_DRAFTER, "lookup")
"""Who drafts for requests that do not say."""

CUT_TOKENS = 64
"""How many of the most likely tokens a draft distribution keeps under the ratio test; only these are drawn and sent."""


class Speculation(Enum):
    """Who drafts ahead, and when a verify pass starts."""

    OFF = "off"
    LOCKSTEP = "lockstep"
    PIPELINED = "pipelined"
    HEDGED = "hedged"
    AUTO = "auto"

    @property
    def drafts_ahead(self) -> bool:
        """Whether the drafter keeps working while a verify pass runs."""
        return self in (Speculation.PIPELINED, Speculation.HEDGED)


class AcceptanceRule(Enum):
    """How a drafted token is judged."""

    SHARED_NOISE = "shared-noise"
    RATIO_TEST = "ratio-test"
    TYPICAL = "typical"
    TOP_K = "top-k"
    THRESHOLD = "threshold"


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


GREEDY = SamplingParams()


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
        distributions: one for each token under the ratio test, else empty.
        draft_ns: time spent in draft passes for these tokens.
        chances: for each token, P(target draws this token | it drew the earlier ones); empty: not known.
        known_tokens: how many committed tokens the drafter knew when it drafted these.
        drafter: its name.
    """

    position: int
    prefix_fingerprint: int
    token_ids: tuple[int, ...]
    origin: BlockOrigin = BlockOrigin.TRUNK
    distributions: tuple[Distribution, ...] = ()
    draft_ns: int = 0
    chances: tuple[float, ...] = ()
    known_tokens: int = 0
    drafter: str = MODEL_DRAFTER


@dataclass(frozen=True, slots=True)
class CommittedToken:
    """One token that the target decided.

    Attributes:
        drafter: who drafted it; empty: nobody.
        logprob: natural log-probability under the processed target distribution; None unless the session asked for it.
    """

    token_id: int
    origin: TokenOrigin = TokenOrigin.TARGET
    logprob: float | None = None
    drafter: str = ""


@dataclass(frozen=True, slots=True)
class DrafterCount:
    """How one drafter's tokens fared.

    Attributes:
        judged, tested, accepted: of its tokens; tested are those up to a pass's first rejection. A token that several
            drafters guessed counts for the first of them.
    """

    drafter: str
    judged: int = 0
    tested: int = 0
    accepted: int = 0

    def plus(self, other: "DrafterCount") -> "DrafterCount":
        """Both counts of one drafter together."""
        return DrafterCount(
            self.drafter, self.judged + other.judged, self.tested + other.tested, self.accepted + other.accepted
        )


@dataclass(frozen=True, slots=True)
class PassTimings:
    """How a verify pass spent its time.

    Attributes:
        wait_ns: from the session's previous commit, or its prefill, to the start of this pass.
        gap_ns: from the end of the engine's previous pass, of any session, to the start of this one.
        forward_ns: in the model's forward call.
        sampling_ns: from the end of the forward call until the commit was ready.
    """

    wait_ns: int = 0
    gap_ns: int = 0
    forward_ns: int = 0
    sampling_ns: int = 0


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a service hosts.

    Attributes:
        tokenizer_fingerprint: SHA-256, hexadecimal, over all tokenizer parts.
        tokenizer_parts: the same for each part, so that a difference can be named.
        row_class: in exact mode, the row counts of a pass that agree bit for bit on this device.
        ready: False while weights load.
        processors: cores or GPUs that passes may run on; all services on a machine use the same names.
        threads: how many of them a pass uses.
        kernels: the kind of kernels: "stock" or "packed" on a processor, elsewhere the device's kind. Kinds differ in
            the last bits.
        proposers: on a verifier, the drafters that run in its process.
    """

    model_id: str
    architecture: str
    parameters: int
    vocabulary_size: int
    tokenizer_fingerprint: str
    tokenizer_parts: Mapping[str, str]
    end_token_ids: tuple[int, ...]
    context_tokens: int
    dtype: str
    device: str
    begin_token_id: int | None = None
    max_sessions: int = 0
    numerics: str = "fast"
    row_class: tuple[int, ...] = ()
    ready: bool = False
    processors: tuple[str, ...] = ()
    threads: int = 1
    kernels: str = "stock"
    proposers: tuple[str, ...] = ()
