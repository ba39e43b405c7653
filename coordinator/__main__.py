"""Run a coordinator that connects to services elsewhere: `python -m coordinator --help`."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from coordinator.routing import RoutingTable
from coordinator.service import running_coordinator
from coordinator.settings import CoordinatorSettings
from sybil_engine.core.errors import InvalidRequest, PairMismatch, SybilError
from sybil_engine.settings import parse

PROGRAM = "sybil serve coordinator"

logger = logging.getLogger("coordinator")


async def serve(settings: CoordinatorSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain.

    Raises:
        Unavailable, PairMismatch: it cannot serve.
    """
    stopping = asyncio.create_task(stop.wait())
    serving = asyncio.create_task(_run(settings))
    await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        logger.info("draining: running requests have %g s to end", settings.grace_s)
        serving.cancel()
        await asyncio.wait((serving,))
    if not serving.cancelled():
        await serving


async def _run(settings: CoordinatorSettings) -> None:
    if settings.ray:
        await _run_fleet(settings)
    else:
        await _run_in_this_process(settings)


async def _run_fleet(settings: CoordinatorSettings) -> None:
    # Imported late: without Ray this process must start without it.
    from coordinator.ray.fleet import running_fleet

    async with running_fleet(settings, logger.info) as fleet:
        logger.info("serving on %s", fleet.address)
        raise await fleet.broken()


async def _run_in_this_process(settings: CoordinatorSettings) -> None:
    table = RoutingTable(settings.drafters, settings.verifiers)
    async with running_coordinator(settings, table, logger.info) as coordinator:
        logger.info("serving on %s", coordinator.address)
        await asyncio.Event().wait()


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")

    async def run() -> None:
        settings = parse(CoordinatorSettings, argv, os.environ, PROGRAM)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, stop)

    try:
        uvloop.run(run())
    except SybilError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 2 if isinstance(error, InvalidRequest | PairMismatch) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
