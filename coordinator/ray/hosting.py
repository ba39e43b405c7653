"""What runs inside a Ray actor until it is told to stop: a drafter, a verifier, or a coordinator (`replica.py`)."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

Serve = Callable[[Sequence[str], Mapping[str, str], Callable[[int], None]], Awaitable[None]]
"""Runs a service from its flags and environment until cancelled, then drains it.

It calls its third argument with the port as soon as it listens.
"""


class StoppableActor:
    """Serves until stopped. When its process dies, Ray starts a new one; the fleet then calls `run` again."""

    _serving: "asyncio.Task[None] | None" = None

    async def stop(self) -> None:
        """Let it drain and end; wait for that."""
        if self._serving:
            self._serving.cancel()
            await asyncio.wait((self._serving,))

    async def _until_stopped(self, serving: Coroutine[Any, Any, None]) -> None:
        """Run until `stop` is called; raises what it raises."""
        self._serving = asyncio.create_task(serving)
        await asyncio.wait((self._serving,))
        if not self._serving.cancelled():
            self._serving.result()


class ServiceActor(StoppableActor):
    """Runs a drafter or a verifier in this process: imported by name, because services never import one another."""

    def __init__(self, entry: str, argv: Sequence[str], node_address: Callable[[], str]) -> None:
        """
        Args:
            entry: for example "drafter_service.__main__:serve".
            argv: the service's flags, without host and port.
            node_address: returns the address at which others reach this machine.
        """
        self._entry = entry
        self._host = node_address()
        self._argv = (*argv, "--host", self._host, "--port", "0")
        self._port = 0
        self._listening = asyncio.Event()

    async def run(self) -> None:
        """Serve until stopped; raises what the service raises."""
        await self._until_stopped(self._serve())

    async def address(self) -> str:
        """Wait until the service listens; returns host:port."""
        await self._listening.wait()
        return f"{self._host}:{self._port}"

    async def _serve(self) -> None:
        # In a thread: importing a model library takes seconds.
        serve: Serve = await asyncio.to_thread(resolve_name, self._entry)
        await serve(self._argv, os.environ, self._bound)

    def _bound(self, port: int) -> None:
        self._port = port
        self._listening.set()
