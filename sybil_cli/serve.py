"""`sybil serve`: one service in this process, with that service's own flags."""

import sys
from collections.abc import Callable
from importlib import import_module

import click

from sybil_cli.options import forwarding

# Each package has a __main__ with `main(argv) -> int`.
_PACKAGES = {"drafter": "drafter_service", "verifier": "verifier_service", "coordinator": "coordinator"}


@click.group()
def serve() -> None:
    """Run one of the services in this process, until Ctrl-C or SIGTERM.

    Every flag after the service's name goes to that service: `sybil serve verifier --help` lists them.
    """


def run_service(package: str, argv: list[str]) -> int:
    """Run a service's own main to its exit code."""
    main: Callable[[list[str]], int | None] = import_module(f"{package}.__main__").main
    try:
        return main(argv) or 0
    except SystemExit as exit_request:
        if isinstance(exit_request.code, str):
            print(exit_request.code, file=sys.stderr)
            return 1
        return exit_request.code or 0


def _command(service: str, package: str) -> click.Command:
    @forwarding(service)
    def command(argv: tuple[str, ...]) -> int:
        return run_service(package, list(argv))

    command.help = f"Run the {service}."
    return command


for _service, _package in _PACKAGES.items():
    serve.add_command(_command(_service, _package))
