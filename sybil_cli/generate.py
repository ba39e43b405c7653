"""`sybil generate`: completes one prompt."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, Protocol

import click
from rich.console import Console

from sybil_cli.exits import SUCCESS
from sybil_cli.options import model_options, models_chosen, pair_from, request_from, request_options
from sybil_cli.parameters import SECONDS, Address
from sybil_cli.printing import Printer, printer_for
from sybil_cli.progress import Progress
from sybil_cli.running import run
from sybil_engine.client import connected
from sybil_engine.core.acceptance import LOSSY
from sybil_engine.core.completion import Completion, Delta
from sybil_engine.core.errors import InvalidRequest, InvalidSettings, SessionLost
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.startup import without_collection
from sybil_engine.models.presets import Pair


@click.command()
@click.argument("prompt")
@click.option(
    "--address",
    type=Address(),
    envvar="SYBIL_ADDRESS",
    show_envvar=True,
    help="A running coordinator. Without it, the whole engine runs in this process.",
)
@request_options
@model_options
@click.option(
    "--allow-lossy",
    is_flag=True,
    help="Without an address: allow a lossy --acceptance, under which the text may differ.",
)
@click.option("--timeout", "timeout_s", type=SECONDS, help="Give up after this many seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def generate(
    prompt: str, address: str | None, allow_lossy: bool, timeout_s: float | None, as_json: bool, **options: Any
) -> int:
    """Complete PROMPT; `-` reads it from stdin."""
    remarks = Console(stderr=True, highlight=False)
    output = Console(highlight=False)
    if address and models_chosen(options):
        raise InvalidSettings(
            "--preset, --target, --draft and --draft-layers choose the models of this process, but the coordinator at "
            f"{address} has its models already; leave them out, or leave out --address (and unset SYBIL_ADDRESS)"
        )
    request = request_from(_read(prompt, remarks), options)
    printer = printer_for(output, remarks, as_json)
    lossy = [request.acceptance_rule.value] if allow_lossy and request.acceptance_rule in LOSSY else []
    return run(_generate(address, pair_from(options), lossy, request, printer, Progress(remarks), timeout_s))


class Completer(Protocol):
    """Anything that completes: a coordinator elsewhere, or the engine in this process."""

    @property
    def name(self) -> str: ...

    def generate(self, request: GenerationRequest, timeout_s: float | None = None) -> AsyncGenerator[Delta, None]:
        """Stream one completion; its last delta holds the ending."""


async def complete(
    engine: Completer,
    request: GenerationRequest,
    printer: Printer,
    progress: Progress,
    timeout_s: float | None = None,
) -> Completion:
    """Stream one completion through a printer.

    Raises:
        SybilError: the request is refused.
        ClickException: it is lost, or the completion takes too long.
    """
    try:
        async with asyncio.timeout(timeout_s), aclosing(engine.generate(request, timeout_s)) as stream:
            with progress.waiting(f"the first token from {engine.name}"):
                deltas = [await anext(stream)]
            printer.begin(str(request.prompt))
            printer.delta(deltas[0])
            async for delta in stream:
                deltas.append(delta)
                printer.delta(delta)
    except TimeoutError:
        raise click.ClickException(
            f"the completion was not done within {timeout_s:g} s; allow more with --timeout, "
            "or ask for less with --max-tokens"
        ) from None
    except SessionLost as error:
        raise click.ClickException(
            f"{error}; run this again with --seed {request.seed} to get the same tokens"
        ) from error
    completion = Completion.joined(deltas)
    printer.end(completion)
    return completion


async def _generate(
    address: str | None,
    pair: Pair,
    allow_lossy: Sequence[str],
    request: GenerationRequest,
    printer: Printer,
    progress: Progress,
    timeout_s: float | None,
) -> int:
    async with AsyncExitStack() as stack:
        if address is None:
            with without_collection():
                # Imports torch, which a client of a running coordinator does not need.
                from sybil_cli.local import local_engine

                engine: Completer = await stack.enter_async_context(local_engine(pair, progress, allow_lossy))
        else:
            with progress.waiting(f"the coordinator at {address}"):
                engine = await stack.enter_async_context(connected(address))
        await complete(engine, request, printer, progress, timeout_s)
    return SUCCESS


def _read(prompt: str, remarks: Console) -> str:
    if prompt != "-":
        return prompt
    if sys.stdin.isatty():
        remarks.print("Type the prompt; Ctrl-D ends it.")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"stdin is not valid UTF-8 at byte {error.start}; convert the prompt first") from error
