"""Who is measured: this engine under each policy of speculation, and peers on the same models."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from benchmarks.measurement import Measurement
from sybil_engine.core.errors import Unavailable
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc as wire_grpc
from sybil_engine.rpc.v1 import types_pb2 as types
from sybil_engine.serving.convert import sampling_to_wire, speculation_to_wire


@dataclass(frozen=True, slots=True)
class BenchTask:
    """One prompt to complete.

    Attributes:
        prompt_id: of a built-in prompt; else empty.
    """

    prompt: tuple[int, ...]
    seed: int
    category: str = ""
    prompt_id: str = ""


class Arm(ABC):
    """Completes prompts, one at a time.

    Attributes:
        speculation: None for a peer.
        window_tokens: the most drafted tokens of a pass; 0: the policy decides.
    """

    name: str
    speculation: Speculation | None = None
    window_tokens: int = 0

    @abstractmethod
    async def complete(self, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> Measurement:
        """Complete one prompt, to the model's own end of text or `max_tokens`."""


class ServedArm(Arm):
    """This engine, over its public gRPC port."""

    def __init__(self, channel: grpc.aio.Channel, name: str, speculation: Speculation, window_tokens: int) -> None:
        self.name = name
        self.speculation = speculation
        self.window_tokens = window_tokens
        self._stub = wire_grpc.GenerationServiceStub(channel)
        self._wire_speculation = speculation_to_wire(speculation)

    async def complete(self, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> Measurement:
        request = wire.GenerateRequest(
            token_ids=wire.TokenIds(ids=task.prompt),
            sampling=sampling_to_wire(sampling),
            seed=task.seed,
            max_tokens=max_tokens,
            speculation=self._wire_speculation,
            window_tokens=self.window_tokens,
        )
        token_ids: list[int] = []
        origins: list[int] = []
        usage = wire.Usage()
        start = time.perf_counter()
        try:
            async for response in self._stub.Generate(request):
                token_ids += response.token_ids
                origins += response.origins
                if response.HasField("completion"):
                    usage = response.completion.usage
        except grpc.aio.AioRpcError as error:
            raise Unavailable(
                f"the arm {self.name} ended after {len(token_ids)} tokens: {error.details() or error.code().name}"
            ) from error
        duration_s = time.perf_counter() - start
        counts = {descriptor.name: float(getattr(usage, descriptor.name)) for descriptor in usage.DESCRIPTOR.fields}
        counts["first_tokens"] = first_commit_tokens(origins)
        return Measurement(tuple(token_ids), duration_s, counts)


def first_commit_tokens(origins: Sequence[int]) -> int:
    """How many tokens the first pass committed: up to the target's own, which ends every commit but a session's last.

    Args:
        origins: [tokens], of a completion, as on the wire.
    """
    own: int = types.TOKEN_ORIGIN_TARGET
    return origins.index(own) + 1 if own in origins else len(origins)


def lockstep_name(window_tokens: int) -> str:
    """The name of the lockstep arm with this window, until the fastest one is known."""
    return f"{Speculation.LOCKSTEP.value}-{window_tokens}"
