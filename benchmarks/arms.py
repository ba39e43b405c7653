"""Who is measured: this engine under each policy of speculation, and peers on the same models."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import grpc

from benchmarks.measurement import Measurement
from sybil_engine.core.errors import Unavailable
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc as wire_grpc
from sybil_engine.rpc.v1 import types_pb2 as types
from sybil_engine.serving.convert import sampling_to_wire, speculation_to_wire


class Arm(ABC):
    """Completes prompts, one at a time."""

    name: str

    @abstractmethod
    async def complete(
        self, prompt: Sequence[int], max_tokens: int, sampling: SamplingParams, seed: int
    ) -> Measurement:
        """Complete one prompt, to the models' own end of text or `max_tokens`."""


class EngineArm(Arm):
    """This engine, over its public gRPC port."""

    def __init__(self, channel: grpc.aio.Channel, speculation: Speculation, window_tokens: int, name: str = "") -> None:
        self.name = name or speculation.value
        self.speculation = speculation
        self.window_tokens = window_tokens
        self._stub = wire_grpc.GenerationServiceStub(channel)

    async def complete(
        self, prompt: Sequence[int], max_tokens: int, sampling: SamplingParams, seed: int
    ) -> Measurement:
        request = wire.GenerateRequest(
            token_ids=wire.TokenIds(ids=prompt),
            sampling=sampling_to_wire(sampling),
            seed=seed,
            max_tokens=max_tokens,
            speculation=speculation_to_wire(self.speculation),
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
    """How many tokens the first pass committed: up to its own one, which ends every commit but a session's last.

    Args:
        origins: [tokens], of a completion, as on the wire.
    """
    own: int = types.TOKEN_ORIGIN_TARGET
    return origins.index(own) + 1 if own in origins else len(origins)


def lockstep_name(window_tokens: int) -> str:
    """The name of the lockstep arm with this window, while the best one is being searched."""
    return f"{Speculation.LOCKSTEP.value}-{window_tokens}"


def engine_arms(
    channel: grpc.aio.Channel, speculations: Sequence[Speculation], lockstep_windows: Sequence[int], window_tokens: int
) -> list[EngineArm]:
    """An arm for each kind of speculation; for lockstep, one for each of its windows."""
    arms = []
    for speculation in speculations:
        if speculation is Speculation.LOCKSTEP:
            arms += [EngineArm(channel, speculation, each, lockstep_name(each)) for each in lockstep_windows]
        else:
            arms.append(EngineArm(channel, speculation, window_tokens))
    return arms
