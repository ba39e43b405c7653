"""What a client asks for, checked."""

import asyncio
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from coordinator.policies import Policy, policy
from coordinator.routing import Target
from coordinator.settings import ServingSettings
from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.types import MOST_WINDOW_TOKENS, SamplingParams, SessionOpen, Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.serving import convert

_DEFAULT_MAX_TOKENS = 128
_MOST_STOPS = 16
_MOST_STOP_CHARACTERS = 1_000
# Longer texts are tokenized in a thread: the event loop has other sessions to serve.
_LONG_TEXT_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    Attributes:
        opening: of its session, resumed tokens included.
        stops: text that ends the completion.
        resumed: tokens that the client has already.
    """

    opening: SessionOpen
    policy: Policy
    stops: tuple[str, ...]
    resumed: tuple[int, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.opening.token_ids[: self.opening.prompt_tokens]

    @property
    def complete(self) -> bool:
        """Whether the resumed tokens are all that was asked for."""
        return len(self.opening.token_ids) >= self.opening.max_position


async def read_request(message: wire.GenerateRequest, target: Target, settings: ServingSettings) -> Request:
    """Check a request and fill in what it leaves open.

    Raises:
        InvalidRequest: a field is out of range.
        ContextExceeded: more tokens than the target's context.
    """
    vocabulary_size = target.description.vocabulary_size
    resumed = _known("resume_token_ids", message.resume_token_ids, vocabulary_size)
    chosen_policy = _policy(message, settings)
    stops = _stops(message.stop)
    stop_token_ids = _known("stop_token_ids", message.stop_token_ids, vocabulary_size)
    if not message.ignore_end_tokens:
        stop_token_ids += target.description.end_token_ids
    sampling = _sampling(message)
    prompt = await _prompt(message, target)
    max_tokens = _max_tokens(message, len(prompt), target.description.context_tokens)
    if len(resumed) > max_tokens:
        raise InvalidRequest(
            f"resume_token_ids holds {len(resumed)} tokens, more than max_tokens, which is {max_tokens}"
        )
    opening = SessionOpen(
        token_ids=prompt + resumed,
        prompt_tokens=len(prompt),
        sampling=sampling,
        seed=message.seed if message.HasField("seed") else secrets.randbits(64),
        stop_token_ids=frozenset(stop_token_ids),
        max_position=len(prompt) + max_tokens,
        acceptance_rule=convert.acceptance_rule_from_wire(message.acceptance_rule),
        logprobs=message.logprobs,
        session_id=uuid4().hex[:12],
    )
    return Request(opening, chosen_policy, stops, resumed)


async def _prompt(message: wire.GenerateRequest, target: Target) -> tuple[int, ...]:
    context_tokens = target.description.context_tokens
    match message.WhichOneof("prompt"):
        case "text" if not message.text:
            raise InvalidRequest("the prompt is empty; give at least one character to continue")
        case "text" if len(message.text) > (most := context_tokens * target.tokenizer.longest_token):
            # Encoding it would hold everybody up.
            raise ContextExceeded(
                f"the prompt has {len(message.text)} characters; {target.description.model_id} has a context of "
                f"{context_tokens} tokens, which {most} characters fill in any case: shorten the prompt"
            )
        case "text" if len(message.text) > _LONG_TEXT_CHARACTERS:
            prompt = await asyncio.to_thread(target.tokenizer.encode, message.text)
        case "text":
            prompt = target.tokenizer.encode(message.text)
        case "token_ids":
            prompt = _known("prompt.token_ids", message.token_ids.ids, target.description.vocabulary_size)
        case _:
            raise InvalidRequest("the prompt is missing; set either text or token_ids")
    if not prompt:
        raise InvalidRequest("the prompt has no tokens; give at least one to continue")
    if len(prompt) >= context_tokens:
        raise ContextExceeded(
            f"the prompt has {len(prompt)} tokens; {target.description.model_id} has a context of {context_tokens}, so "
            f"{context_tokens - 1} fit with one to generate: shorten the prompt by {len(prompt) - context_tokens + 1}"
        )
    return prompt


def _max_tokens(message: wire.GenerateRequest, prompt_tokens: int, context_tokens: int) -> int:
    fitting = context_tokens - prompt_tokens
    if not message.HasField("max_tokens"):
        return min(_DEFAULT_MAX_TOKENS, fitting)
    if message.max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {message.max_tokens}; it must be at least 1")
    if message.max_tokens > fitting:
        raise ContextExceeded(
            f"max_tokens is {message.max_tokens}; after a prompt of {prompt_tokens} tokens {fitting} fit the "
            f"context of {context_tokens}: lower max_tokens or shorten the prompt"
        )
    return message.max_tokens


def _sampling(message: wire.GenerateRequest) -> SamplingParams:
    if math.isnan(message.sampling.temperature):
        raise InvalidRequest("temperature is not a number; it must be a finite number, 0 or more")
    return convert.sampling_from_wire(message.sampling)


def _policy(message: wire.GenerateRequest, settings: ServingSettings) -> Policy:
    try:
        speculation = convert.speculation_from_wire(message.speculation, settings.speculation)
    except InvalidRequest:
        served = ", ".join(each.value for each in Speculation)
        raise InvalidRequest(
            f"speculation has the value {message.speculation}, which this version does not serve; choose one of "
            f"{served}"
        ) from None
    if message.window_tokens > MOST_WINDOW_TOKENS:
        raise InvalidRequest(
            f"window_tokens is {message.window_tokens}; it must be at most {MOST_WINDOW_TOKENS}, or 0 for the default"
        )
    return policy(speculation, message.window_tokens or settings.window_tokens)


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
        if token_id >= vocabulary_size:
            raise InvalidRequest(f"{name}[{index}] is {token_id}; token ids must be below {vocabulary_size}")
    return tuple(token_ids)
