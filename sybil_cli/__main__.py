"""`sybil`, and `python -m sybil_cli`: finds the subcommand, runs it, turns errors into messages and exit codes."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from sybil_cli import exits
from sybil_engine import __version__
from sybil_engine.core.errors import USER_MISTAKES, SybilError

# A module of this package for each name, and a line of help, so that `sybil --help` imports none of them.
_COMMANDS = {
    "demo": "Start everything, complete real Python code, say how fast and how exact.",
    "generate": "Complete one prompt.",
    "up": "Run drafter, verifier and coordinator on this machine until Ctrl-C.",
    "serve": "Run one of the services in this process.",
    "bench": "Measure how fast speculation is here, arm by arm, beside others.",
    "quality": "Measure what each judge costs in quality, and gains in speed.",
    "loadtest": "Put a running stack under load: what many users at once get.",
    "simulate": "Play recorded traces under many policies, for any times of passes and messages.",
    "health": "Ask a service whether it is ready; exit 0 if it is.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, getattr(import_module(f"sybil_cli.{name}"), str(name)), rest


@click.group(
    cls=LazyGroup,
    commands=[click.Command(name, short_help=line) for name, line in _COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "--version", prog_name="sybil", message="%(prog)s %(version)s")
def sybil() -> None:
    """Exact speculative decoding made of services.

    Start with `sybil demo`.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: without the program's name; None reads sys.argv.

    Returns:
        The exit code, see exits.py.
    """
    try:
        result = sybil.main(argv, prog_name="sybil", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        exits.report(error.format_message() + (f" See `{context.command_path} --help`." if context else ""))
        return error.exit_code
    except SybilError as error:
        exits.report(str(error))
        return exits.USER_MISTAKE if isinstance(error, USER_MISTAKES) else exits.FAILURE
    except click.Abort:
        exits.report("stopped")
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has closed it; nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILURE
    return result if isinstance(result, int) else exits.SUCCESS


if __name__ == "__main__":
    sys.exit(main())
