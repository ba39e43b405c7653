"""`sybil simulate`: plays traces of a real pair under many policies, for any pass times and any distance."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from reporting.outputs import check_file
from sybil_cli.exits import SUCCESS
from sybil_cli.options import Command, model_options, pair_from
from sybil_cli.progress import Progress
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.prompts import built_in_prompts, mixed

_FILE = click.Path(path_type=Path)
_AT_LEAST_1 = click.IntRange(min=1)
_FILE_COLUMNS = 120
# What a benchmark's file says, if there is one.
_PLAYED = {"points": "--point", "row_ms": "--row-ms", "replicas": "--replicas", "max_window": "--max-window"}


def _temperatures(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> list[float]:
    """Numbers, separated by commas, each once."""
    temperatures = []
    for text in ",".join(texts).split(",") if texts else ():
        try:
            temperature = float(text)
        except ValueError:
            temperature = -1.0
        if not 0 <= temperature < float("inf"):
            raise InvalidSettings(f"{text!r} is not a temperature; write numbers from 0 on, such as --temperature 0,1")
        temperatures.append(temperature)
    return list(dict.fromkeys(temperatures))


def _temperature_option(**settings: Any) -> Callable[[Command], Command]:
    return click.option(
        "--temperature", "temperatures", multiple=True, callback=_temperatures, metavar="T[,T...]", **settings
    )


@click.group(invoke_without_command=True)
@click.option("--traces", "trace_file", type=_FILE, help="What `sybil simulate record` wrote.")
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="VERIFY,DRAFT,RTT",
    default=("30,3,1", "30,1.5,15", "12,1,0.2"),
    show_default=True,
    help="Times in ms, for example 30,3,1; may be repeated.",
)
@click.option("--row-ms", type=float, default=0.0, show_default=True, help="What each judged token adds to a pass.")
@_temperature_option(help="[default: all recorded]")
@click.option("--replicas", type=_AT_LEAST_1, default=4, show_default=True, help="Targets that DSI runs on.")
@click.option(
    "--max-window", type=_AT_LEAST_1, default=15, show_default=True, help="Largest window that a pass judges."
)
@click.option(
    "--against",
    "bench_file",
    type=_FILE,
    help="Compare with what `sybil bench --env emulated --json FILE` measured on the same prompts, at its times.",
)
@click.option("--json", "json_file", type=_FILE, help="File to write every figure to.")
@click.pass_context
def simulate(
    context: click.Context,
    /,
    trace_file: Path | None,
    bench_file: Path | None,
    json_file: Path | None,
    temperatures: list[float],
    **options: Any,
) -> int | None:
    """Play recorded traces as draft-then-verify, PEARL, AMUSD, SSD, DSI and this engine would, for any times of passes
    and messages. docs/simulator.md says what each of them does.

    Record traces first: `sybil simulate record --out FILE`.
    """
    if context.invoked_subcommand:
        return None
    if trace_file is None:
        raise InvalidSettings(
            "no traces to play; name a file with --traces, or record one: `sybil simulate record --out FILE`"
        )
    given = [
        flag for name, flag in _PLAYED.items() if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    ]
    if bench_file and given:
        flags = ", ".join(given)
        raise InvalidSettings(
            f"{flags} cannot be chosen with --against, which takes it from {bench_file}; leave it out"
        )
    # NumPy, which `sybil --help` does not need.
    from simulator.storage import load

    if json_file:
        check_file(json_file, "--json")
    recording = load(trace_file)
    if bench_file:
        figures = _check(recording, trace_file, bench_file, temperatures)
    else:
        figures = _play(recording, trace_file, temperatures, options)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    return SUCCESS


@simulate.command()
@click.option("--out", "out_file", type=_FILE, required=True, help="File to write the traces to.")
@_temperature_option(default=("0,1",), show_default=True)
@click.option("--count", type=_AT_LEAST_1, default=24, show_default=True, help="Prompts, a category at a time.")
@click.option("--max-tokens", type=_AT_LEAST_1, default=256, show_default=True, help="Of each completion.")
@click.option(
    "--seed", type=click.IntRange(min=0, max=2**32), default=0, show_default=True, help="Of the first prompt."
)
@model_options
def record(out_file: Path, temperatures: list[float], **options: Any) -> int:
    """Let a pair of models complete the built-in prompts, and record what the target says and the drafter guesses."""
    from simulator.storage import save

    check_file(out_file, "--out")
    progress = Progress()
    with progress.waiting("the models"):
        # Imports torch and transformers, which playing does not need.
        from tokenizers import Tokenizer

        from simulator.judging import Task
        from simulator.recording import Recorder
        from sybil_engine.models.finding import find_folder

        pair = pair_from(options)
        draft = pair.draft_choice
        if draft is None:
            raise InvalidSettings("a trace needs a drafter's guesses; name a model with --draft")
        recorder = Recorder(pair.target, draft)
        tokenizer = Tokenizer.from_file(str(find_folder(pair.target) / "tokenizer.json"))
        tasks = [
            Task(prompt.id, tuple(tokenizer.encode(prompt.prompt).ids), options["seed"] + number)
            for number, prompt in enumerate(mixed(built_in_prompts(), options["count"]))
        ]
        recording = recorder.record(tasks, temperatures, options["max_tokens"], progress.say)
    save(recording, out_file)
    _describe(recording, _output())
    click.echo(f"Wrote {out_file}; play it with `sybil simulate --traces {out_file}`.")
    return SUCCESS


def _play(recording: Any, trace_file: Path, temperatures: list[float], options: dict[str, Any]) -> dict[str, Any]:
    """Play every policy at every point; returns every figure."""
    from simulator.point import parse_point
    from simulator.report import figures, match_table
    from simulator.tournament import play_match

    points = [parse_point(text, options["row_ms"]) for text in options["points"]]
    temperatures = temperatures or recording.temperatures()
    for temperature in temperatures:
        if not recording.at(temperature):
            recorded = ", ".join(f"{each:g}" for each in recording.temperatures())
            raise InvalidSettings(f"{trace_file} holds no traces at temperature {temperature:g}, only at {recorded}")
    output, progress = _output(), Progress()
    _describe(recording, output)
    places = [(temperature, point) for temperature in temperatures for point in points]
    matches = []
    for number, (temperature, point) in enumerate(places):
        with progress.waiting(f"{number + 1} of {len(places)}: temperature {temperature:g}, {point}"):
            match = play_match(recording.at(temperature), point, options["max_window"], options["replicas"])
        output.print()
        output.print(match_table(match))
        matches.append(match)
    return figures(recording, matches, {name: options[name] for name in ("row_ms", "replicas", "max_window")})


def _check(recording: Any, trace_file: Path, bench_file: Path, temperatures: list[float]) -> dict[str, Any]:
    """Compare what is simulated with what a benchmark measured; returns every figure."""
    from simulator.check import EngineCheck, check_same
    from simulator.measured import load_bench
    from simulator.report import check_figures, check_table, remarks_on

    bench = load_bench(bench_file)
    temperatures = temperatures or list(bench.arms)
    check_same(recording, trace_file, bench, temperatures)
    output, progress = _output(), Progress()
    check, runs = EngineCheck(bench), []
    for temperature in temperatures:
        with progress.waiting(f"temperature {temperature:g}"):
            runs.append(check.run(temperature, recording.at(temperature)))
    _describe(recording, output)
    for run in runs:
        output.print()
        output.print(check_table(run))
    output.print()
    for line in remarks_on(runs):
        output.print(line, soft_wrap=True)
    about = {"traces": str(trace_file), "bench": str(bench_file), "recorded": dict(recording.about)}
    return check_figures(runs, about)


def _output() -> Console:
    """Standard output; where it is no terminal, as wide as a table needs."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)


def _describe(recording: Any, output: Console) -> None:
    from simulator.report import traces_table

    about = recording.about
    output.print(f"Target: {about.get('target', 'unknown')}. Drafter: {about.get('draft', 'unknown')}.", soft_wrap=True)
    output.print(traces_table(recording))
