"""`sybil`, and `python -m sybil_cli`: finds the subcommand, runs it, turns errors into messages and exit codes."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from sybil_cli import exits
from sybil_engine import __version__
from sybil_engine.core.errors import SybilError

# A module of this package for each name, and a line of help, so that `sybil --help` imports none of them.
_COMMANDS = {
    "demo": "Start everything, complete real Python code, say how fast and how exact.",
    "generate": "Complete one prompt.",
    "up": "Run drafter, verifier and coordinator on this machine until Ctrl-C.",
    "serve": "Run one of the services in this process.",
    "bench": "Measure how fast speculation is here, arm by arm, beside others.",
    "simulate": "Play recorded traces under many policies, for any times of passes and messages.",
    "health": "Ask a service whether it is ready; exit 0 if it is.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"sybil_cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=_COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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
        return exits.USER_MISTAKE
    except click.UsageError as error:
        exits.report(_usage(error))
        return exits.USER_MISTAKE
    except click.ClickException as error:
        exits.report(error.format_message())
        return error.exit_code
    except SybilError as error:
        failure = exits.failure_of(error)
        exits.report(failure.format_message())
        return failure.exit_code
    except click.Abort:
        exits.report("stopped")
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has closed it; nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILURE
    return result if isinstance(result, int) else exits.SUCCESS


def _usage(error: click.UsageError) -> str:
    context = error.ctx
    if context is None:
        return error.format_message()
    path, command = context.command_path, context.command
    match error:
        case click.NoSuchOption(option_name=name):
            options = [option for param in command.get_params(context) for option in param.opts if option[0] == "-"]
            return f"{name} is not an option of `{path}`; the nearest one is {_nearest(name, options)}"
        case click.exceptions.NoSuchCommand(command_name=name) if isinstance(command, click.Group):
            known = command.list_commands(context)
            return f"{name} is not a command of `{path}`; the nearest one is {_nearest(name, known)}"
    return f"{error.format_message()} See `{path} --help`."


def _nearest(name: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]


if __name__ == "__main__":
    sys.exit(main())
