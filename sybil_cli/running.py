"""Runs a command's coroutine so that Ctrl-C and SIGTERM close everything it opened."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from sybil_cli.exits import INTERRUPTED, TERMINATED, report

_EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a command to its exit code.

    Ctrl-C and SIGTERM cancel it; a second signal interrupts the cleanup, too. A command that treats the signal as its
    normal end returns its own exit code; otherwise the signal determines it, once everything is closed.
    """
    return asyncio.run(_stoppable(command))


def take_sigterm_back() -> None:
    """Handle SIGTERM again: while it starts, Ray installs a native handler that prints a stack and ends the process."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


async def _stoppable(command: Coroutine[Any, Any, int]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stopped_by: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        report("stopping")
        stopped_by.append(number)
        task.cancel()
        for each in _EXIT_CODES:
            loop.remove_signal_handler(each)

    for number in _EXIT_CODES:
        loop.add_signal_handler(number, stop, number)
    try:
        return await command
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        return _EXIT_CODES[stopped_by[0]]
