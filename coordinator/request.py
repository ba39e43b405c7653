"""What a client asks for, and the checks that every interface shares."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from coordinator.tokenizer import Tokenizer
from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.plan import DraftPlan, first_plan
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import (
    MOST_WINDOW_TOKENS,
    AcceptanceRule,
    ModelDescription,
    SamplingParams,
    Speculation,
)

_DEFAULT_MAX_TOKENS = 128
_MOST_STOPS = 16
_MOST_STOP_CHARACTERS = 1_000
# Longer texts are tokenized in a thread: the event loop has other sessions to serve.
_LONG_TEXT_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that does not say gets."""

    speculation: Speculation = Speculation.AUTO
    window_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client asks for, as it came; see GenerateRequest in generation_service.proto for each field.

    Attributes:
        prompt: text or token ids; None if neither came.
        seed, max_tokens, speculation: None if they did not come.
    """

    prompt: str | Sequence[int] | None
    sampling: SamplingParams = SamplingParams()
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


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that can be served.

    Attributes:
        opening: of its session, resumed tokens included; its plan is for `plan` to say.
        stops: text that ends the completion.
        resumed: tokens that the client has already.
    """

    opening: SessionOpen
    speculation: Speculation
    stops: tuple[str, ...]
    resumed: tuple[int, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.opening.token_ids[: self.opening.prompt_tokens]

    @property
    def complete(self) -> bool:
        """Whether the resumed tokens are all that was asked for."""
        return len(self.opening.token_ids) >= self.opening.max_position

    def plan(self, shares_processor: bool) -> DraftPlan:
        """The plan that its session opens with."""
        return first_plan(self.speculation, self.opening.window_tokens, shares_processor=shares_processor)


async def check(
    request: GenerationRequest, target: ModelDescription, tokenizer: Tokenizer, defaults: Defaults
) -> CheckedRequest:
    """Check a request and fill in what it leaves open.

    Raises:
        InvalidRequest: a value is out of range.
        ContextExceeded: more tokens than the target's context.
    """
    if not 0 <= request.window_tokens <= MOST_WINDOW_TOKENS:
        raise InvalidRequest(
            f"window_tokens is {request.window_tokens}; it must be between 1 and {MOST_WINDOW_TOKENS}, or 0 for the "
            "default"
        )
    resumed = _known("resume_token_ids", request.resume_token_ids, target.vocabulary_size)
    stops = _stops(request.stop)
    stop_token_ids = _known("stop_token_ids", request.stop_token_ids, target.vocabulary_size)
    if not request.ignore_end_tokens:
        stop_token_ids += target.end_token_ids
    prompt = await _prompt(request.prompt, target, tokenizer)
    max_tokens = _max_tokens(request.max_tokens, len(prompt), target.context_tokens)
    if len(resumed) > max_tokens:
        raise InvalidRequest(
            f"resume_token_ids holds {len(resumed)} tokens, more than max_tokens, which is {max_tokens}"
        )
    opening = SessionOpen(
        token_ids=prompt + resumed,
        prompt_tokens=len(prompt),
        sampling=request.sampling,
        seed=secrets.randbits(64) if request.seed is None else request.seed,
        stop_token_ids=frozenset(stop_token_ids),
        max_position=len(prompt) + max_tokens,
        window_tokens=request.window_tokens or defaults.window_tokens,
        acceptance_rule=request.acceptance_rule,
        logprobs=request.logprobs,
        session_id=uuid4().hex[:12],
    )
    return CheckedRequest(opening, request.speculation or defaults.speculation, stops, resumed)


async def _prompt(
    prompt: str | Sequence[int] | None, target: ModelDescription, tokenizer: Tokenizer
) -> tuple[int, ...]:
    context_tokens = target.context_tokens
    if prompt is None:
        raise InvalidRequest("the prompt is missing; set either text or token_ids")
    token_ids = (
        await _encode(prompt, target, tokenizer)
        if isinstance(prompt, str)
        else _known("prompt.token_ids", prompt, target.vocabulary_size)
    )
    if not token_ids:
        raise InvalidRequest("the prompt has no tokens; give at least one to continue")
    if len(token_ids) >= context_tokens:
        raise ContextExceeded(
            f"the prompt has {len(token_ids)} tokens; {target.model_id} has a context of {context_tokens}, so "
            f"{context_tokens - 1} fit with one to generate: shorten the prompt by {len(token_ids) - context_tokens + 1}"
        )
    return token_ids


async def _encode(text: str, target: ModelDescription, tokenizer: Tokenizer) -> tuple[int, ...]:
    if not text:
        raise InvalidRequest("the prompt is empty; give at least one character to continue")
    if len(text) > (most := target.context_tokens * tokenizer.longest_token):
        # Encoding it would hold everybody up.
        raise ContextExceeded(
            f"the prompt has {len(text)} characters; {target.model_id} has a context of {target.context_tokens} "
            f"tokens, which {most} characters fill in any case: shorten the prompt"
        )
    if len(text) > _LONG_TEXT_CHARACTERS:
        return await asyncio.to_thread(tokenizer.encode, text)
    return tokenizer.encode(text)


def _max_tokens(max_tokens: int | None, prompt_tokens: int, context_tokens: int) -> int:
    fitting = context_tokens - prompt_tokens
    if max_tokens is None:
        return min(_DEFAULT_MAX_TOKENS, fitting)
    if max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {max_tokens}; it must be at least 1")
    if max_tokens > fitting:
        raise ContextExceeded(
            f"max_tokens is {max_tokens}; after a prompt of {prompt_tokens} tokens {fitting} fit the "
            f"context of {context_tokens}: lower max_tokens or shorten the prompt"
        )
    return max_tokens


def _stops(stops: Sequence[str]) -> tuple[str, ...]:
    if len(stops) > _MOST_STOPS:
        raise InvalidRequest(f"{len(stops)} stop strings were given; at most {_MOST_STOPS} are allowed")
    for stop in stops:
        if not stop:
            raise InvalidRequest("a stop string is empty; give each at least one character")
        if len(stop) > _MOST_STOP_CHARACTERS:
            raise InvalidRequest(
                f"a stop string has {len(stop)} characters; at most {_MOST_STOP_CHARACTERS} are allowed"
            )
    return tuple(stops)


def _known(name: str, token_ids: Sequence[int], vocabulary_size: int) -> tuple[int, ...]:
    """The token ids, all of which must be known to the target."""
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < vocabulary_size:
            raise InvalidRequest(f"{name}[{index}] is {token_id}; token ids must be below {vocabulary_size}")
    return tuple(token_ids)
