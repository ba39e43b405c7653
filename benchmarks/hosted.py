"""One service in a process of its own, for a benchmark: `python -m benchmarks.hosted KIND CORES [FLAG...]`.

It writes JSON lines to stdout, {"waiting": what for} and then {"address": where}. It ends when its stdin is closed, so
nothing is left running however its parent dies.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from sybil_engine.serving.process import run_service

_HOST = "127.0.0.1"


def main(argv: Sequence[str]) -> int:
    """Serve until stdin ends; returns the exit status."""
    kind, cores, *arguments = argv
    if cores:
        # Before any library counts the cores.
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    return run_service(_host(kind, arguments), "error")


async def _host(kind: str, arguments: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    argv = (*arguments, "--host", _HOST, "--port", "0")
    if kind == "coordinator":
        service = _host_coordinator(argv)
    else:
        # By name: only one service runs in a process. Without the environment: a run is what its flags say.
        serve = import_module(f"{kind}_service.__main__").serve
        service = serve(argv, {}, lambda port: _say(address=f"{_HOST}:{port}"))
    hosting = asyncio.create_task(service)

    def wait_for_the_end() -> None:
        # Not through sys.stdin, whose lock this thread would still hold when the interpreter ends.
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(hosting.cancel)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with suppress(asyncio.CancelledError):
        await hosting


async def _host_coordinator(argv: Sequence[str]) -> None:
    from coordinator.routing import RoutingTable
    from coordinator.service import running_coordinator
    from coordinator.settings import CoordinatorSettings
    from sybil_engine.settings import parse

    settings = parse(CoordinatorSettings, argv, {})
    table = RoutingTable(settings.drafters, settings.verifiers)
    async with running_coordinator(settings, table, lambda line: _say(waiting=line)) as coordinator:
        _say(address=coordinator.address)
        await asyncio.Event().wait()


def _say(**values: str) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
