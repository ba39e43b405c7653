"""Runs a command's coroutine so that Ctrl-C and SIGTERM close everything it opened."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from sybil_engine.cli.exits import TERMINATED


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a command to its exit code.

    Ctrl-C and SIGTERM cancel it. A command that takes this for its end returns its own exit code; otherwise SIGTERM
    returns 143, and Ctrl-C raises KeyboardInterrupt, both once everything is closed.
    """
    return asyncio.run(_terminable(command))


def take_sigterm_back() -> None:
    """Handle SIGTERM again: Ray puts a handler of its own in place, which prints a stack and ends the process at once.

    It does so below Python, while it starts.
    """
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


async def _terminable(command: Coroutine[Any, Any, int]) -> int:
    task = asyncio.current_task()
    assert task is not None
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await command
    except asyncio.CancelledError:
        if terminated.is_set():
            return TERMINATED
        raise
