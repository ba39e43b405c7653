"""A process that is frozen, not dead, keeps its sockets: only unanswered pings give it away."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sybil_engine.serving.channels import CHANNEL_OPTIONS

SERVER = """
import asyncio
from sybil_engine.rpc.v1 import generation_service_pb2
from sybil_engine.serving.server import running_server

async def main():
    async with running_server("127.0.0.1", 0, generation_service_pb2.DESCRIPTOR, lambda server: None) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.timeout(120)
def test_a_stream_from_a_frozen_server_breaks_within_25_seconds() -> None:
    async def seconds_until_noticed(port: int, pid: int) -> float:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
            stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await anext(aiter(stream))).status == health_pb2.HealthCheckResponse.NOT_SERVING
            os.kill(pid, signal.SIGSTOP)
            frozen_s = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(stream))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            return time.monotonic() - frozen_s

    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert asyncio.run(seconds_until_noticed(int(process.stdout.readline()), process.pid)) < 25
        finally:
            process.kill()
