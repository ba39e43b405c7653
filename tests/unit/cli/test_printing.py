"""What is shown of a completion, on a terminal, in a pipe, and to a program."""

import io
import json

import pytest
from rich.console import Console

from sybil_cli.printing import ColourPrinter, JsonPrinter, PlainPrinter, Printer, as_json, figures, printer_for
from sybil_engine.core.completion import Completion, Delta, Ending, Usage
from sybil_engine.core.types import AcceptanceRule, CommittedToken, FinishReason, Speculation, TokenOrigin

DRAFTED, TARGET = TokenOrigin.DRAFTED, TokenOrigin.TARGET


def delta(text: str, drafter: str, *token_ids: int) -> Delta:
    origin = DRAFTED if drafter else TARGET
    return Delta(text, tuple(CommittedToken(token_id, origin, drafter=drafter) for token_id in token_ids))


USAGE = Usage(
    prompt_tokens=3,
    completion_tokens=5,
    verify_passes=2,
    drafted_tokens=6,
    tested_tokens=4,
    accepted_tokens=3,
    time_to_first_token_ns=50_000_000,
    total_ns=100_000_000,
    verify_ns=80_000_000,
    overlap_ns=40_000_000,
)
DELTAS = [
    delta("    ", "model", 5),
    delta("return", "lookup", 6),
    delta(" x", "", 7),
    Delta(" + [/b]", ending=Ending(FinishReason.LENGTH, 42, Speculation.PIPELINED, USAGE)),
]
COMPLETION = Completion.joined(DELTAS)


def terminal(no_color: bool | None = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False, no_color=no_color)


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, highlight=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def show(printer: Printer, prompt: str = "def f(x):\n") -> None:
    printer.begin(prompt)
    for each in DELTAS:
        printer.delta(each)
    printer.end(COMPLETION)


def test_each_drafters_tokens_and_the_targets_own_have_a_colour_of_their_own() -> None:
    output = terminal()
    show(ColourPrinter(output, pipe()))
    text = written(output)
    assert "\x1b[36m    \x1b[0m\x1b[32mreturn\x1b[0m" in text
    assert "\x1b[1;33m x\x1b[0m" in text


def test_text_without_tokens_has_neither_colour() -> None:
    output = terminal()
    show(ColourPrinter(output, pipe()))
    assert written(output).endswith("\x1b[0m + [/b]\n")


def test_the_legend_names_all_colours_and_figures_follow() -> None:
    remarks = pipe()
    show(ColourPrinter(terminal(), remarks))
    legend, line = written(remarks).splitlines()
    assert legend == "drafted by model · drafted by lookup · the target's own"
    assert line == figures(COMPLETION)


def test_a_long_prompt_is_shown_by_its_end() -> None:
    output = terminal()
    show(ColourPrinter(output, pipe()), "".join(f"line {number}\n" for number in range(30)))
    assert "… 10 lines …" in written(output)
    assert "line 9\n" not in written(output)
    assert "line 29" in written(output)


def test_a_pipe_gets_the_text_alone_and_the_figures_go_elsewhere() -> None:
    output, remarks = pipe(), pipe()
    show(PlainPrinter(output, remarks))
    assert written(output) == "    return x + [/b]\n"
    assert written(remarks) == figures(COMPLETION) + "\n"


def test_escape_sequences_of_a_model_do_not_reach_a_terminal() -> None:
    output = terminal()
    ColourPrinter(output, pipe()).delta(delta("\x1b[2J\x07", "", 1))
    assert "\x1b[2J" not in written(output)
    assert "␛[2J␇" in written(output)


def test_figures_are_one_line_and_undefined_ones_are_a_dash() -> None:
    assert figures(COMPLETION) == (
        "5 tokens · 50.0 tokens/s · first token after 50 ms · acceptance rate 0.75 · 2.50 tokens per pass · seed 42 · "
        "finish reason length"
    )
    assert "acceptance rate -" in figures(Completion("", (), Ending(FinishReason.STOP, 0, Speculation.OFF)))


def test_json_is_one_object_with_exactly_these_keys() -> None:
    output = pipe()
    show(JsonPrinter(output))
    answer = json.loads(written(output))
    assert written(output).count("\n") == 1
    assert list(answer) == [
        *("text", "token_ids", "origins", "drafters", "finish_reason", "seed", "passes", "reason"),
        *("acceptance_rule", "acceptance_parameter", "lossy", "stats", "by_drafter"),
    ]
    assert answer["drafters"] == ["model", "lookup", ""]
    assert not answer["lossy"]
    assert list(answer["stats"]) == [
        "tokens_per_second",
        "time_to_first_token_ns",
        "acceptance_rate",
        "draft_efficiency",
        "tokens_per_pass",
        "overlap",
        "wasted_draft_tokens",
        "verify_passes",
    ]
    assert answer["text"] == "    return x + [/b]"
    assert answer["token_ids"] == [5, 6, 7]
    assert answer["origins"] == ["drafted", "drafted", "target"]
    assert answer["finish_reason"] == "length"
    assert answer["seed"] == 42
    assert answer["stats"]["acceptance_rate"] == 0.75
    assert answer["stats"]["wasted_draft_tokens"] == 2


def test_json_says_null_where_a_rate_is_undefined() -> None:
    completion = Completion("", (), Ending(FinishReason.STOP, 1, Speculation.OFF, Usage(verify_passes=1)))
    assert json.loads(as_json(completion))["stats"]["acceptance_rate"] is None


@pytest.mark.parametrize(
    ("output", "wants_json", "expected"),
    [
        (terminal(), False, ColourPrinter),
        (terminal(no_color=True), False, PlainPrinter),
        (pipe(), False, PlainPrinter),
        (terminal(), True, JsonPrinter),
    ],
    ids=["terminal", "NO_COLOR", "pipe", "json"],
)
def test_the_printer_suits_what_stdout_is(output: Console, wants_json: bool, expected: type[Printer]) -> None:
    assert type(printer_for(output, pipe(), wants_json)) is expected


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert isinstance(printer_for(terminal(no_color=None), pipe(), as_json=False), PlainPrinter)


def test_a_lossy_completion_says_so() -> None:
    ending = Ending(FinishReason.LENGTH, 42, Speculation.LOCKSTEP, USAGE, {}, "", AcceptanceRule.TOP_K, 3)
    assert "LOSSY, judged by top-k 3: tokens may not be the target's own" in figures(Completion("", (), ending))
    assert "LOSSY" not in figures(COMPLETION)
