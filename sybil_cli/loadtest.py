"""`sybil loadtest`: puts a running stack under load, arm by arm."""

import os
import sys

from rich.console import Console

from loadtest.settings import LoadtestSettings
from sybil_cli.exits import FAILURE, SUCCESS
from sybil_cli.options import forwarding
from sybil_cli.running import run
from sybil_engine import settings

_FILE_COLUMNS = 200


@forwarding("loadtest")
def loadtest(argv: tuple[str, ...]) -> int:
    """Put a running stack under load, arm by arm: docs/loadtest.md says how to read what it prints."""
    environ = dict(os.environ)
    if address := environ.get("SYBIL_ADDRESS"):
        environ.setdefault("SYBIL_LOADTEST_ADDRESS", address)
    chosen = settings.parse(LoadtestSettings, argv, environ, "sybil loadtest").checked()
    # Tables keep their columns in a file or a pipe.
    output = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    return run(_loadtest(chosen, output, Console(stderr=True, highlight=False)))


async def _loadtest(chosen: LoadtestSettings, output: Console, progress: Console) -> int:
    # Imports gRPC, which bad settings do not need.
    from loadtest.load_test import load_test

    return SUCCESS if await load_test(chosen, output, progress) else FAILURE
