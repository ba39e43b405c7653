"""A drafter or a verifier inside a Ray actor: imported by name, because services never import one another."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pkgutil import resolve_name

Serve = Callable[[Sequence[str], Mapping[str, str], Callable[[int], None], asyncio.Event], Awaitable[None]]
"""Runs a service from its flags and environment until the event is set, then drains it.

It calls its third argument with the port as soon as it listens.
"""


class ServiceActor:
    """Runs a service in this process. When the process dies, Ray starts a new one; the fleet then calls `run` again."""

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
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Serve until stopped; raises what the service raises."""
        # In a thread: importing a model library takes seconds.
        serve: Serve = await asyncio.to_thread(resolve_name, self._entry)
        try:
            await serve(self._argv, os.environ, self._bound, self._stop)
        finally:
            self._stopped.set()

    async def address(self) -> str:
        """Wait until the service listens; returns host:port."""
        await self._listening.wait()
        return f"{self._host}:{self._port}"

    async def stop(self) -> None:
        """Let `run` drain and return; wait for that."""
        self._stop.set()
        await self._stopped.wait()

    def _bound(self, port: int) -> None:
        self._port = port
        self._listening.set()
