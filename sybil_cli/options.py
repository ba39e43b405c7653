"""Options that several commands share, and the values they become."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, TextIO, TypeVar

import click

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import MOST_WINDOW_TOKENS, AcceptanceRule, SamplingParams, Speculation
from sybil_engine.models.presets import PRESETS, Pair, pair_of

Command = TypeVar("Command", bound=Callable[..., Any])

SPECULATIONS = [each.value for each in Speculation]
_MODEL_OPTIONS = ("preset", "target", "draft", "draft_layers")


def forwarding(program: str) -> Callable[[Callable[[tuple[str, ...]], int]], click.Command]:
    """Make a command that hands on every argument as it is, `--help` too."""

    def decorated(run: Callable[[tuple[str, ...]], int]) -> click.Command:
        argument = click.Argument(["argv"], nargs=-1, type=click.UNPROCESSED)
        settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
        return click.Command(
            program, callback=run, params=[argument], help=run.__doc__, add_help_option=False, context_settings=settings
        )

    return decorated


def model_options(command: Command) -> Command:
    """--preset, --target, --draft and --draft-layers."""
    return _decorated(
        command,
        click.option(
            "--preset", type=click.Choice(list(PRESETS)), help="A pair of models by name. [default: embedded]"
        ),
        click.option("--target", metavar="FOLDER|HUB-ID", help="The large model, which has the last word."),
        click.option(
            "--draft",
            metavar="FOLDER|HUB-ID|target|none",
            help="The small model, which guesses ahead; target: the large one itself. A type may follow: target:int8.",
        ),
        click.option(
            "--draft-layers",
            type=click.IntRange(min=0),
            default=0,
            metavar="K",
            help="With --draft target: only the first K layers of the target guess ahead.",
        ),
    )


def request_options(command: Command) -> Command:
    """Everything that shapes a completion."""
    return _decorated(
        command,
        click.option("--max-tokens", type=int, help="How many tokens to generate at most. [default: 128]"),
        click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy."),
        click.option("--top-k", type=int, default=0, help="Keep the K most likely tokens; 0 keeps all."),
        click.option("--top-p", type=float, default=1.0, help="Keep the likeliest tokens up to this probability."),
        click.option("--min-p", type=float, default=0.0, help="Drop tokens below this share of the likeliest one's."),
        click.option("--seed", type=int, help="The same seed gives the same text. [default: random, and reported]"),
        click.option("--stop", multiple=True, metavar="TEXT", help="Text that ends the completion; may be repeated."),
        click.option(
            "--speculation", type=click.Choice(SPECULATIONS), help="How to draft ahead; the text is the same."
        ),
        click.option(
            "--drafters",
            default="",
            metavar="NAME,…",
            help="Who guesses, together: model, lookup, suffix, … (docs/proposers.md). [default: the service's]",
        ),
        click.option(
            "--drafters-per-session",
            type=int,
            default=0,
            help="How many drafter services may work for this at once; 0: the service's default.",
        ),
        click.option(
            "--prediction",
            type=click.File("r", encoding="utf-8"),
            help="A file that the completion will resemble, such as the one to be edited.",
        ),
        click.option(
            "--acceptance",
            type=click.Choice([rule.value for rule in AcceptanceRule]),
            default=AcceptanceRule.SHARED_NOISE.value,
            show_default=True,
            help="How drafted tokens are judged. Under any other rule the text depends on what was drafted; typical, "
            "top-k and threshold are lossy, and whoever serves must allow them.",
        ),
        click.option(
            "--acceptance-parameter",
            type=float,
            default=0.0,
            help="Of a lossy acceptance rule: its epsilon, k or least probability; 0: the rule's default.",
        ),
        click.option(
            "--window",
            type=int,
            default=0,
            help=f"Most drafted tokens one pass judges, up to {MOST_WINDOW_TOKENS}; 0: automatic.",
        ),
        click.option(
            "--priority",
            type=int,
            default=0,
            help="Higher ones are served first; a coordinator allows as much as its --max-priority.",
        ),
    )


def pair_from(options: Mapping[str, Any]) -> Pair:
    """The pair of models that the options name.

    Raises:
        InvalidSettings: a target without a draft model, or a draft model that makes no sense.
    """
    return pair_of(*(options[name] for name in _MODEL_OPTIONS))


def models_chosen(options: Mapping[str, Any]) -> bool:
    """Whether the options name a model or a preset."""
    return any(options[name] for name in _MODEL_OPTIONS)


def request_from(prompt: str, options: Mapping[str, Any]) -> GenerationRequest:
    """The request that the options describe, with a random seed if they name none.

    Raises:
        InvalidRequest: a value is out of range.
    """
    return GenerationRequest(
        prompt=prompt,
        sampling=SamplingParams(
            temperature=options["temperature"],
            top_k=options["top_k"],
            top_p=options["top_p"],
            min_p=options["min_p"],
        ),
        # A random seed of 32 bits is short enough to type.
        seed=secrets.randbits(32) if options["seed"] is None else options["seed"],
        max_tokens=options["max_tokens"],
        stop=tuple(options["stop"]),
        speculation=Speculation(options["speculation"]) if options["speculation"] else None,
        acceptance_rule=AcceptanceRule(options["acceptance"]),
        acceptance_parameter=options["acceptance_parameter"],
        window_tokens=options["window"],
        priority=options["priority"],
        drafters=tuple(name.strip() for name in options["drafters"].split(",") if name.strip()),
        prediction=_read_prediction(options["prediction"]),
        drafters_per_session=options["drafters_per_session"],
    )


def _read_prediction(file: TextIO | None) -> str:
    if file is None:
        return ""
    try:
        prediction = file.read()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"--prediction {file.name} is not valid UTF-8 at byte {error.start}; convert it"
        ) from error
    if not prediction:
        raise InvalidRequest(f"--prediction {file.name} is empty; name a file that the completion will resemble")
    return prediction


def _decorated(command: Command, *decorators: Callable[[Command], Command]) -> Command:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command
