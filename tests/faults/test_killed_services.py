"""Killed processes cost speed, never a token: real services, real sockets, SIGKILL."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.routing import RoutingTable
from coordinator.service import running_coordinator
from coordinator.settings import ServingSettings
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc, types_pb2

PROMPT = "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
TOKENS = 160
KILL_AFTER_TOKENS = 30


@dataclass(frozen=True)
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]
    address: str

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class KilledServices:
    """Two verifiers, a drafter, and a client of their coordinator."""

    verifiers: tuple[Service, Service]
    drafter: Service
    client: Any

    async def complete(
        self, speculation: types_pb2.Speculation.ValueType, kill: Service | None = None
    ) -> tuple[list[int], wire.Usage]:
        """Complete the prompt, killing a service on the way."""
        request = wire.GenerateRequest(
            text=PROMPT,
            max_tokens=TOKENS,
            ignore_end_tokens=True,
            sampling=types_pb2.SamplingParams(temperature=0.8),
            seed=11,
            speculation=speculation,
        )
        tokens: list[int] = []
        usage = wire.Usage()
        async for response in self.client.Generate(request, timeout=120):
            tokens += [token.token_id for token in response.tokens]
            usage = response.completion.usage
            if kill is not None and len(tokens) >= KILL_AFTER_TOKENS:
                kill.kill()
                kill = None
        return tokens, usage


@contextmanager
def _service(module: str, *arguments: str) -> Iterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", module, "--port", str(port), "--threads", "1", *arguments])
    try:
        yield Service(process, f"127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def _stack() -> AsyncIterator[KilledServices]:
    with ExitStack() as processes:
        verifiers = [processes.enter_context(_service("verifier_service", "--max-sessions", "2")) for _ in range(2)]
        drafter = processes.enter_context(_service("drafter_service", "--max-sessions", "2"))
        table = RoutingTable((drafter.address,), tuple(each.address for each in verifiers))
        settings = ServingSettings(port=0, start_s=120, drafter_start_s=60)
        async with running_coordinator(settings, table, lambda waiting: None) as coordinator:
            await _both_live(verifiers)
            async with grpc.aio.insecure_channel(coordinator.address) as channel:
                yield KilledServices(
                    (verifiers[0], verifiers[1]), drafter, generation_service_pb2_grpc.GenerationServiceStub(channel)
                )


async def _both_live(verifiers: Sequence[Service]) -> None:
    for each in verifiers:
        async with grpc.aio.insecure_channel(each.address) as channel:
            async for status in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                if status.status == health_pb2.HealthCheckResponse.SERVING:
                    break


@pytest.mark.timeout(240)
def test_a_killed_verifier_and_a_killed_drafter_change_no_token() -> None:
    async def run() -> None:
        async with _stack() as stack:
            undisturbed, _ = await stack.complete(types_pb2.SPECULATION_OFF)
            assert len(undisturbed) == TOKENS

            tokens, usage = await stack.complete(types_pb2.SPECULATION_PIPELINED)
            assert tokens == undisturbed
            assert usage.accepted_tokens > 0

            tokens, usage = await stack.complete(types_pb2.SPECULATION_PIPELINED, kill=stack.drafter)
            assert tokens == undisturbed
            assert usage.verify_passes > usage.completion_tokens / 2, "most tokens came without a drafter"

            tokens, usage = await stack.complete(types_pb2.SPECULATION_OFF, kill=stack.verifiers[0])
            assert tokens == undisturbed
            assert usage.reopened_streams == 1, "the session moved to the other verifier"

    asyncio.run(run())


def test_a_service_that_is_told_to_end_while_its_model_loads_ends_with_status_0() -> None:
    command = [sys.executable, "-m", "verifier_service", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loading" in line:
                break
        time.sleep(0.5)
        process.terminate()
        assert process.wait(20) == 0, process.stderr.read()
