"""Checks a request against the model that will serve it, and fills in defaults."""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import uuid4

from coordinator.tokenizer import Tokenizer
from sybil_engine.core.acceptance import check_acceptance
from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.request import HIGHEST_PRIORITY, GenerationRequest
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import PREDICTION, AcceptanceRule, ModelDescription, Speculation
from sybil_engine.proposers.names import check_names
from sybil_engine.serving.opening import check_token_ids

_DEFAULT_MAX_TOKENS = 128
# Longer texts are tokenized in a thread, so that the event loop can serve other sessions meanwhile.
_LONG_TEXT_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values for fields that a request leaves out, and the highest priority that it may ask for.

    Attributes:
        drafters: none: those of DEFAULT_DRAFTERS that the verifiers offer.
        allow_lossy: lossy acceptance rules that a request may ask for.
    """

    speculation: Speculation = Speculation.AUTO
    window_tokens: int = 0
    drafters: tuple[str, ...] = ()
    max_priority: int = HIGHEST_PRIORITY
    allow_lossy: tuple[AcceptanceRule, ...] = ()
    drafters_per_session: int = 1


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that can be served.

    Attributes:
        opening: of its session, resumed tokens included; its plan is made when it starts.
        stops: text that ends the completion.
        resumed: completion tokens that the client already has.
        drafters_per_session: how many drafter services may work for it at once.
    """

    opening: SessionOpen
    speculation: Speculation
    stops: tuple[str, ...]
    resumed: tuple[int, ...]
    drafters_per_session: int = 1

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.opening.token_ids[: self.opening.prompt_tokens]

    @property
    def complete(self) -> bool:
        """Whether the resumed tokens are already all that was asked for."""
        return len(self.opening.token_ids) >= self.opening.max_position


async def check(
    request: GenerationRequest,
    target: ModelDescription,
    tokenizer: Tokenizer,
    defaults: Defaults,
    proposers: Collection[str] = (),
) -> CheckedRequest:
    """Check a request and fill in defaults.

    Args:
        proposers: the names of the drafters that need no model.

    Raises:
        InvalidRequest: a value is out of range.
        ContextExceeded: more tokens than the target's context.
    """
    if request.priority > defaults.max_priority:
        raise InvalidRequest(
            f"priority is {request.priority}; this coordinator allows at most {defaults.max_priority} (--max-priority)"
        )
    resumed, stop_token_ids = _resumed(request.resume_token_ids, target), tuple(request.stop_token_ids)
    check_token_ids("stop_token_ids", stop_token_ids, target.vocabulary_size)
    if not request.ignore_end_tokens:
        stop_token_ids += target.end_token_ids
    parameter = check_acceptance(request.acceptance_rule, request.acceptance_parameter, defaults.allow_lossy)
    drafters = check_names(tuple(request.drafters) or defaults.drafters, proposers)
    prompt = await _prompt(request.prompt, target, tokenizer)
    prediction = await _prediction(request.prediction, target, tokenizer)
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
        acceptance_parameter=parameter,
        logprobs=request.logprobs,
        priority=request.priority,
        session_id=uuid4().hex[:12],
        drafters=(*drafters, PREDICTION) if prediction and PREDICTION not in drafters else drafters,
        prediction=prediction,
        tenant=request.user,
    )
    return CheckedRequest(
        opening,
        request.speculation or defaults.speculation,
        tuple(request.stop),
        resumed,
        request.drafters_per_session or defaults.drafters_per_session,
    )


async def _prompt(prompt: str | Sequence[int], target: ModelDescription, tokenizer: Tokenizer) -> tuple[int, ...]:
    given = await _encode(prompt, target, tokenizer) if isinstance(prompt, str) else prompt
    _check_prompt_fits(len(given), target)
    token_ids = tuple(given)
    if not token_ids:
        raise InvalidRequest("the prompt has no tokens; give at least one to continue")
    if not isinstance(prompt, str):
        # The target knows all tokens of its own tokenizer.
        check_token_ids("prompt.token_ids", token_ids, target.vocabulary_size)
    return token_ids


async def _prediction(
    prediction: str | Sequence[int], target: ModelDescription, tokenizer: Tokenizer
) -> tuple[int, ...]:
    """The caller's guess of the completion."""
    if isinstance(prediction, str):
        token_ids: Sequence[int] = await _encode(prediction, target, tokenizer, "prediction") if prediction else ()
    else:
        token_ids = prediction
    if (tokens := len(token_ids)) > target.context_tokens:
        raise ContextExceeded(
            f"the prediction has {tokens} tokens; {target.model_id} has a context of {target.context_tokens}, so no "
            "completion can be as long: shorten the prediction"
        )
    token_ids = tuple(token_ids)
    if not isinstance(prediction, str):
        check_token_ids("prediction", token_ids, target.vocabulary_size)
    return token_ids


def _check_prompt_fits(tokens: int, target: ModelDescription) -> None:
    if tokens >= (context_tokens := target.context_tokens):
        raise ContextExceeded(
            f"the prompt has {tokens} tokens; {target.model_id} has a context of {context_tokens}, so "
            f"{context_tokens - 1} fit with one to generate: shorten the prompt by {tokens - context_tokens + 1}"
        )


def _resumed(token_ids: Sequence[int], target: ModelDescription) -> tuple[int, ...]:
    """Tokens that the client has already."""
    if len(token_ids) >= target.context_tokens:
        raise ContextExceeded(
            f"resume_token_ids holds {len(token_ids)} tokens; {target.model_id} has a context of "
            f"{target.context_tokens}: send what an earlier call delivered, and no more"
        )
    resumed = tuple(token_ids)
    check_token_ids("resume_token_ids", resumed, target.vocabulary_size)
    return resumed


async def _encode(text: str, target: ModelDescription, tokenizer: Tokenizer, name: str = "prompt") -> tuple[int, ...]:
    if len(text) > (most := target.context_tokens * tokenizer.longest_token):
        # Encoding it would hold up all other sessions.
        raise ContextExceeded(
            f"the {name} has {len(text)} characters; {target.model_id} has a context of {target.context_tokens} "
            f"tokens, which {most} characters fill in any case: shorten the {name}"
        )
    if len(text) > _LONG_TEXT_CHARACTERS:
        return await asyncio.to_thread(tokenizer.encode, text)
    return tokenizer.encode(text)


def _max_tokens(max_tokens: int | None, prompt_tokens: int, context_tokens: int) -> int:
    fitting = context_tokens - prompt_tokens
    if max_tokens is None:
        return min(_DEFAULT_MAX_TOKENS, fitting)
    if max_tokens > fitting:
        raise ContextExceeded(
            f"max_tokens is {max_tokens}; after a prompt of {prompt_tokens} tokens {fitting} fit the "
            f"context of {context_tokens}: lower max_tokens or shorten the prompt"
        )
    return max_tokens
