"""How a command ends when it cannot do what was asked: one sentence on stderr, and an exit code.

2: the caller's values are wrong. 1: something else went wrong. 130: Ctrl-C. 143: SIGTERM.
"""

import click

from sybil_engine.core import errors

SUCCESS = 0
FAILURE = 1
USER_MISTAKE = 2
INTERRUPTED = 130
TERMINATED = 143


class CommandFailed(click.ClickException):
    """A command cannot continue; the message says what to do next."""

    exit_code = FAILURE


class UserMistake(CommandFailed):
    """A command cannot continue with the values it was given."""

    exit_code = USER_MISTAKE


def failure_of(error: errors.SybilError) -> CommandFailed:
    """The command's failure for an error of the engine."""
    return UserMistake(str(error)) if isinstance(error, errors.USER_MISTAKES) else CommandFailed(str(error))


def report(sentence: str) -> None:
    """Write one sentence to stderr, in the command's name."""
    click.echo(f"sybil: {sentence}", err=True)
