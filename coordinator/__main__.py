"""Run a coordinator that connects to services elsewhere: `python -m coordinator --help`."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from coordinator.routing import RoutingTable
from coordinator.service import running_coordinator
from coordinator.settings import CoordinatorSettings
from sybil_engine.serving.process import run_service
from sybil_engine.settings import parse

PROGRAM = "sybil serve coordinator"

logger = logging.getLogger("coordinator")


async def serve(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Serve until cancelled, then drain.

    Raises:
        InvalidSettings, Unavailable, PairMismatch: it cannot serve.
    """
    settings = parse(CoordinatorSettings, argv, environ, PROGRAM)
    if settings.ray:
        # Imported late: without Ray this process must start without it.
        from coordinator.ray.fleet import running_fleet

        async with running_fleet(settings, logger.info) as fleet:
            logger.info("serving on %s", fleet.address)
            raise await fleet.broken()
    table = RoutingTable(settings.drafters, settings.verifiers)
    async with running_coordinator(settings, table, logger.info) as coordinator:
        logger.info("serving on %s", coordinator.address)
        await asyncio.Event().wait()


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    return run_service(serve(argv, os.environ), PROGRAM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
