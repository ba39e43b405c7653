"""What GenerationService reads of a message, and what it makes of the generation core's answers."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc
import pytest

from coordinator.api.grpc import GenerationServicer
from coordinator.generation import Caller
from coordinator.request import Defaults, check
from sybil_engine.core.completion import Delta, Ending
from sybil_engine.core.errors import Exhausted, SybilError
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import (
    AcceptanceRule,
    CommittedToken,
    FinishReason,
    SamplingParams,
    Speculation,
    TokenOrigin,
)
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.serving.convert_completion import delta_from_wire
from tests.unit.coordinator.toy import VOCABULARY_SIZE, toy_target

TARGET = toy_target()


class Aborted(Exception):
    """The call ended with a status."""


class FakeCall:
    """What a servicer sees of a call."""

    def __init__(self, remaining_s: float | None = None) -> None:
        self.written: list[wire.GenerateResponse] = []
        self.remaining_s = remaining_s

    async def write(self, response: wire.GenerateResponse) -> None:
        self.written.append(response)

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object = ()) -> None:
        raise Aborted(code, details)

    def peer(self) -> str:
        return "ipv4:10.0.0.7:40312"

    def time_remaining(self) -> float | None:
        return self.remaining_s


class FakeGeneration:
    """Checks requests as the core does, and answers with these deltas, then with this error."""

    def __init__(self, deltas: Sequence[Delta] = (), error: SybilError | None = None) -> None:
        self.requests: list[GenerationRequest] = []
        self.callers: list[Caller] = []
        self.closed = False
        self._deltas = deltas
        self._error = error

    async def stream(self, request: GenerationRequest, caller: Caller) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        self.callers.append(caller)
        await check(request, TARGET.description, TARGET.tokenizer, Defaults())
        try:
            for delta in self._deltas:
                yield delta
            if self._error:
                raise self._error
        finally:
            self.closed = True


def called(
    message: wire.GenerateRequest, generation: FakeGeneration, remaining_s: float | None = None
) -> list[wire.GenerateResponse]:
    call: Any = FakeCall(remaining_s)
    core: Any = generation
    router: Any = None
    asyncio.run(GenerationServicer(core, router, slow_reader_s=5.0).Generate(message, call))
    written: list[wire.GenerateResponse] = call.written
    return written


def read(message: wire.GenerateRequest) -> GenerationRequest:
    generation = FakeGeneration()
    called(message, generation)
    return generation.requests[0]


def ids(*token_ids: int) -> wire.TokenIds:
    return wire.TokenIds(ids=token_ids)


def sampling(**values: float) -> wire.GenerateRequest:
    return wire.GenerateRequest(text="a", sampling=types_pb2.SamplingParams(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (wire.GenerateRequest(), "set either text or token_ids"),
        (wire.GenerateRequest(text=""), "the prompt is empty"),
        (wire.GenerateRequest(token_ids=ids()), "the prompt has no tokens"),
        (
            wire.GenerateRequest(token_ids=ids(1, 9999, 5000)),
            f"token_ids[1] is 9999; token ids must be below {VOCABULARY_SIZE}",
        ),
        (wire.GenerateRequest(text="a", resume_token_ids=[9999]), "resume_token_ids[0] is 9999"),
        (wire.GenerateRequest(text="a", stop_token_ids=[9999]), "stop_token_ids[0] is 9999"),
        (wire.GenerateRequest(text="a", max_tokens=0), "max_tokens is 0; it must be at least 1"),
        (wire.GenerateRequest(text="a", max_tokens=-3), "max_tokens is -3"),
        (wire.GenerateRequest(text="a", max_tokens=1, resume_token_ids=[1, 2]), "resume_token_ids holds 2 tokens"),
        (sampling(temperature=-1), "temperature is -1"),
        (sampling(temperature=math.nan), "temperature is nan; it must be a finite number, 0 or more"),
        (sampling(temperature=math.inf), "temperature is inf"),
        (sampling(top_p=0), "top_p is 0"),
        (sampling(top_p=1.5), "top_p is 1.5"),
        (sampling(top_p=math.nan), "top_p is nan"),
        (sampling(top_k=-1), "top_k is -1"),
        (sampling(min_p=1), "min_p is 1"),
        (wire.GenerateRequest(text="a", stop=["x", ""]), "a stop string is empty"),
        (wire.GenerateRequest(text="a", stop=["x"] * 17), "17 stop strings were given; at most 16"),
        (wire.GenerateRequest(text="a", stop=["x" * 5000]), "5000 characters; at most 1000"),
        (
            wire.GenerateRequest(text="a", stop_token_ids=[9999] * 1025),
            "stop_token_ids holds 1025 tokens; at most 1024",
        ),
        (wire.GenerateRequest(text="a", user="x" * 257), "user has 257 characters; at most 256"),
        (wire.GenerateRequest(text="a", window_tokens=65), "window_tokens is 65; it must be between 1 and 64, or 0"),
        (wire.GenerateRequest(text="a", speculation=99), "choose one of off, lockstep, pipelined, hedged, auto"),  # type: ignore[arg-type]
        (wire.GenerateRequest(text="a", acceptance_rule=99), "acceptance_rule"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_message_is_an_invalid_argument_that_says_what_is_allowed(
    message: wire.GenerateRequest, words: str
) -> None:
    with pytest.raises(Aborted) as refusal:
        called(message, FakeGeneration())
    code, details = refusal.value.args
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in details


def test_fields_that_are_not_set_are_left_open() -> None:
    request = read(wire.GenerateRequest(text="a"))
    assert (request.seed, request.max_tokens, request.speculation) == (None, None, None)
    assert (request.sampling, request.window_tokens) == (SamplingParams(), 0)
    assert read(wire.GenerateRequest(text="a", seed=0)).seed == 0


def test_every_field_of_a_request_is_read() -> None:
    request = read(
        wire.GenerateRequest(
            token_ids=ids(1, 2),
            sampling=types_pb2.SamplingParams(temperature=0.5, top_k=3, top_p=0.75, min_p=0.25),
            seed=2**64 - 1,
            max_tokens=9,
            stop=["x"],
            stop_token_ids=[7],
            ignore_end_tokens=True,
            speculation=types_pb2.SPECULATION_HEDGED,
            window_tokens=4,
            acceptance_rule=types_pb2.ACCEPTANCE_RULE_RATIO_TEST,
            logprobs=True,
            resume_token_ids=[5, 6],
            priority=-3,
            user="ada",
        )
    )
    assert (list(request.prompt or ()), list(request.stop), list(request.stop_token_ids)) == ([1, 2], ["x"], [7])
    assert request.sampling == SamplingParams(0.5, 3, 0.75, 0.25)
    assert (request.seed, request.max_tokens, list(request.resume_token_ids)) == (2**64 - 1, 9, [5, 6])
    assert (request.speculation, request.window_tokens) == (Speculation.HEDGED, 4)
    assert request.acceptance_rule is AcceptanceRule.RATIO_TEST
    assert (request.priority, request.user) == (-3, "ada")
    assert request.ignore_end_tokens
    assert request.logprobs


def test_a_caller_is_a_host_whatever_its_port_and_has_the_deadline_of_its_call() -> None:
    generation = FakeGeneration()
    before_s = time.monotonic()
    called(wire.GenerateRequest(text="a"), generation, remaining_s=3)
    called(wire.GenerateRequest(text="a"), generation)
    limited, unlimited = generation.callers
    assert limited.name == unlimited.name == "ipv4:10.0.0.7"
    assert before_s + 3 <= limited.deadline_s <= time.monotonic() + 3
    assert unlimited.deadline_s == math.inf


def test_every_delta_is_written_as_it_came() -> None:
    deltas = [
        Delta("ab", (CommittedToken(1, TokenOrigin.DRAFTED, -0.5), CommittedToken(2, TokenOrigin.DRAFTED, -1.0))),
        Delta("c", (CommittedToken(3),)),
        Delta("", ending=Ending(FinishReason.STOP, 7, Speculation.AUTO, reason="chosen")),
    ]
    written = called(wire.GenerateRequest(text="a"), FakeGeneration(deltas))
    assert [delta_from_wire(each) for each in written] == deltas


def test_an_error_of_the_core_is_the_calls_status() -> None:
    generation = FakeGeneration([Delta("a")], Exhausted("every slot is taken"))
    with pytest.raises(Aborted) as refusal:
        called(wire.GenerateRequest(text="a"), generation)
    assert refusal.value.args == (grpc.StatusCode.RESOURCE_EXHAUSTED, "every slot is taken")


def test_a_call_that_breaks_closes_the_generation() -> None:
    class LeavingClient(FakeCall):
        async def write(self, response: wire.GenerateResponse) -> None:
            raise asyncio.CancelledError

    async def leave(generation: Any) -> None:
        call: Any = LeavingClient()
        router: Any = None
        with pytest.raises(asyncio.CancelledError):
            await GenerationServicer(generation, router, slow_reader_s=5.0).Generate(
                wire.GenerateRequest(text="a"), call
            )

    generation = FakeGeneration([Delta("a"), Delta("b")])
    asyncio.run(leave(generation))
    assert generation.closed
