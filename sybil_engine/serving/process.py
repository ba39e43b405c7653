"""A service as a process of its own, until a signal ends it."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import uvloop

from sybil_engine.core.errors import USER_MISTAKES, SybilError
from sybil_engine.serving.engine_thread import ENGINE_THREAD

logger = logging.getLogger(__name__)


def run_service(service: Coroutine[Any, Any, None], program: str) -> int:
    """Run a service until SIGTERM or SIGINT.

    Args:
        service: drains when it is cancelled.

    Returns:
        The exit status: 0 after a drain or `--help`, 2 if settings or models cannot be used, 1 for any other failure.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        status = uvloop.run(_until_signal(service))
    except SybilError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2 if isinstance(error, USER_MISTAKES) else 1
    if any(thread.daemon and thread.name.startswith(ENGINE_THREAD) for thread in threading.enumerate()):
        # A model that is still loading would abort the process while the interpreter ends.
        logging.shutdown()
        os._exit(0)
    return status


async def _until_signal(service: Coroutine[Any, Any, None]) -> int:
    """Returns the exit status."""
    running = asyncio.create_task(_exit_status(service))

    def drain() -> None:
        # Another signal must not interrupt it.
        if not running.cancelling():
            logger.info("draining: running requests may end within the grace period")
            running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, drain)
    await asyncio.wait((running,))
    return 0 if running.cancelled() else running.result()


async def _exit_status(service: Coroutine[Any, Any, None]) -> int:
    """Run a service. `--help` ends it with SystemExit, which would leave a task with a traceback."""
    try:
        await service
    except SystemExit as request:
        return int(request.code or 0)
    return 0
