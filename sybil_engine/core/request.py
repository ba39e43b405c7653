"""A client's request, with the checks that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.session import MOST_DRAFTERS_PER_SESSION
from sybil_engine.core.types import GREEDY, MOST_WINDOW_TOKENS, AcceptanceRule, SamplingParams, Speculation

HIGHEST_PRIORITY = 2**31 - 1
MOST_STOP_TOKEN_IDS = 1_024
_MOST_TOKENS = 2**31 - 1
_MOST_STOPS = 16
_MOST_STOP_CHARACTERS = 1_000
MOST_DRAFTERS = 16
_MOST_USER_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to complete, and how; see GenerateRequest in generation_service.proto for each field.

    Attributes:
        prompt: text or token ids.
        seed: None: a random one.
        max_tokens: None: 128, or as many as fit.
        speculation: None: the service's default.
        window_tokens: the most drafted tokens that one pass may judge; 0: the service's own choice.
        priority: higher ones are served first.
        acceptance_parameter: of a lossy acceptance rule; 0: the rule's default.
        user: who asks; users of the same priority take turns when requests wait. Empty: the host that asks.
        drafters: names of those that guess, together; empty: the service's default.
        drafters_per_session: how many drafter services may work for it at once; 0: the service's default.
        prediction: the caller's own guess of the completion, text or token ids; empty: none.

    Raises:
        InvalidRequest: a value is out of range.
    """

    prompt: str | Sequence[int]
    sampling: SamplingParams = GREEDY
    seed: int | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_end_tokens: bool = False
    speculation: Speculation | None = None
    window_tokens: int = 0
    acceptance_rule: AcceptanceRule = AcceptanceRule.SHARED_NOISE
    logprobs: bool = False
    resume_token_ids: Sequence[int] = ()
    priority: int = 0
    user: str = ""
    drafters: Sequence[str] = ()
    prediction: str | Sequence[int] = ""
    acceptance_parameter: float = 0.0
    drafters_per_session: int = 0

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        _check_stops(self.stop)
        if (count := len(self.stop_token_ids)) > MOST_STOP_TOKEN_IDS:
            raise InvalidRequest(f"stop_token_ids holds {count} tokens; at most {MOST_STOP_TOKEN_IDS} are allowed")
        if len(self.user) > _MOST_USER_CHARACTERS:
            raise InvalidRequest(f"user has {len(self.user)} characters; at most {_MOST_USER_CHARACTERS} are allowed")
        if (count := len(self.drafters)) > MOST_DRAFTERS:
            raise InvalidRequest(f"drafters holds {count} names; at most {MOST_DRAFTERS} are allowed")
        if not 0 <= self.drafters_per_session <= MOST_DRAFTERS_PER_SESSION:
            raise InvalidRequest(
                f"drafters_per_session is {self.drafters_per_session}; it must be between 1 and "
                f"{MOST_DRAFTERS_PER_SESSION}, or 0 for the default"
            )
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise InvalidRequest(f"seed is {self.seed}; it must fit 64 bits without a sign")
        if self.max_tokens is not None and not 1 <= self.max_tokens <= _MOST_TOKENS:
            raise InvalidRequest(f"max_tokens is {self.max_tokens}; it must be at least 1 and at most {_MOST_TOKENS}")
        if not -(2**31) <= self.priority < 2**31:
            raise InvalidRequest(f"priority is {self.priority}; it must fit 32 bits with a sign")
        if not 0 <= self.window_tokens <= MOST_WINDOW_TOKENS:
            raise InvalidRequest(
                f"window_tokens is {self.window_tokens}; it must be between 1 and {MOST_WINDOW_TOKENS}, or 0 "
                "for the default"
            )


def _check_prompt(prompt: str | Sequence[int]) -> None:
    if not isinstance(prompt, str):
        if not prompt:
            raise InvalidRequest("the prompt has no tokens; give at least one to continue")
        return
    if not prompt:
        raise InvalidRequest("the prompt is empty; give at least one character to continue")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("the prompt is not valid UTF-8; convert it first") from None


def _check_stops(stops: Sequence[str]) -> None:
    if len(stops) > _MOST_STOPS:
        raise InvalidRequest(f"{len(stops)} stop strings were given; at most {_MOST_STOPS} are allowed")
    if "" in stops:
        raise InvalidRequest("a stop string is empty; give each at least one character")
    longest = max(map(len, stops), default=0)
    if longest > _MOST_STOP_CHARACTERS:
        raise InvalidRequest(f"a stop string has {longest} characters; at most {_MOST_STOP_CHARACTERS} are allowed")
