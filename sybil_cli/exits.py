"""How a command ends when it cannot do what was asked: one sentence on stderr, and an exit code.

2: the caller's values are wrong. 1: something else went wrong. 130: Ctrl-C. 143: SIGTERM.
"""

import click

SUCCESS = 0
FAILURE = 1
USER_MISTAKE = 2
INTERRUPTED = 130
TERMINATED = 143


def report(sentence: str) -> None:
    """Write one sentence to stderr, in the command's name."""
    click.echo(f"sybil: {sentence}", err=True)
