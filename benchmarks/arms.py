"""Who is measured: this engine under each policy of speculation, and `transformers` on the same models."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import grpc

from benchmarks.measurement import Measurement
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc as wire_grpc
from sybil_engine.serving.convert import sampling_to_wire, speculation_to_wire
from sybil_engine.types import SamplingParams, Speculation


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

    def __init__(self, channel: grpc.aio.Channel, speculation: Speculation, window_tokens: int) -> None:
        self.name = speculation.value
        self._stub = wire_grpc.GenerationServiceStub(channel)
        self._speculation = speculation
        self._window_tokens = window_tokens

    async def complete(
        self, prompt: Sequence[int], max_tokens: int, sampling: SamplingParams, seed: int
    ) -> Measurement:
        request = wire.GenerateRequest(
            token_ids=wire.TokenIds(ids=prompt),
            sampling=sampling_to_wire(sampling),
            seed=seed,
            max_tokens=max_tokens,
            speculation=speculation_to_wire(self._speculation),
            window_tokens=self._window_tokens,
        )
        token_ids: list[int] = []
        usage = wire.Usage()
        start = time.perf_counter()
        async for response in self._stub.Generate(request):
            token_ids += response.token_ids
            if response.HasField("completion"):
                usage = response.completion.usage
        duration_s = time.perf_counter() - start
        counts = {descriptor.name: float(getattr(usage, descriptor.name)) for descriptor in usage.DESCRIPTOR.fields}
        return Measurement(tuple(token_ids), duration_s, counts)


class TransformersArm(Arm):
    """`transformers` `generate()`, in this process and with every core.

    Args:
        options: of `generate()`: none, an assistant_model, or prompt_lookup_num_tokens.
    """

    def __init__(self, name: str, model: Any, options: dict[str, Any]) -> None:
        self.name = name
        self._model = model
        self._options = options

    async def complete(
        self, prompt: Sequence[int], max_tokens: int, sampling: SamplingParams, seed: int
    ) -> Measurement:
        import torch

        torch.manual_seed(seed)
        drawing = {} if sampling.greedy else {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        inputs = torch.tensor([list(prompt)])
        start = time.perf_counter()
        output = self._model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=max_tokens,
            do_sample=not sampling.greedy,
            **drawing,
            **self._options,
        )
        duration_s = time.perf_counter() - start
        return Measurement(tuple(output[0, len(prompt) :].tolist()), duration_s)
