"""`sybil serve`: one service in this process, with that service's own flags."""

import sys
from collections.abc import Callable
from importlib import import_module

import click

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


def _add(service: str, package: str) -> None:
    @serve.command(
        service,
        help=f"Run the {service}.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    @click.argument("argv", nargs=-1, type=click.UNPROCESSED)
    def run(argv: tuple[str, ...]) -> int:
        return run_service(package, list(argv))


for _service, _package in _PACKAGES.items():
    _add(_service, _package)
