"""Shows completions to people and to programs."""

import json
from dataclasses import asdict, dataclass
from zlib import crc32

from rich.console import Console
from rich.text import Text

from sybil_engine.client import Served
from sybil_engine.core.completion import Completion, Delta, Stats
from sybil_engine.core.types import MODEL_DRAFTER, PREDICTION, CommittedToken, ModelDescription, TokenOrigin

TARGET_STYLE = "bold yellow"
_TARGET_WORDS = "the target's own"
_DRAFTER_STYLES = {MODEL_DRAFTER: "cyan", "lookup": "green", "suffix": "magenta", PREDICTION: "blue"}
_OTHER_STYLES = ("bright_red", "bright_green", "bright_magenta", "bright_blue")
_PROMPT_STYLE = "dim"
_PROMPT_LINES = 20

# A model may write anything, escape sequences included; on a terminal they are replaced by visible symbols.
_CONTROL_SIGNS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


def style_of(token: CommittedToken) -> str:
    """How a token is coloured: by its drafter, or as the target's own."""
    return drafter_style(token.drafter) if token.origin is TokenOrigin.DRAFTED else TARGET_STYLE


def drafter_style(name: str) -> str:
    """The colour of a drafter's tokens; the same in every run."""
    return _DRAFTER_STYLES.get(name) or _OTHER_STYLES[crc32(name.encode()) % len(_OTHER_STYLES)]


class Printer:
    """Shows one completion as it comes; this one shows nothing, for completions that are only measured."""

    def begin(self, prompt: str) -> None:
        """Before the first token."""

    def delta(self, delta: Delta) -> None:
        """Some tokens have come."""

    def end(self, completion: Completion) -> None:
        """All of it has come."""


@dataclass(slots=True)
class ColourPrinter(Printer):
    """For a terminal: the prompt, the tokens coloured by where they come from, a legend, and figures."""

    output: Console
    remarks: Console

    def begin(self, prompt: str) -> None:
        lines = prompt.splitlines(keepends=True)
        if len(lines) > _PROMPT_LINES:
            self._write(f"… {len(lines) - _PROMPT_LINES} lines …\n", _PROMPT_STYLE)
        self._write("".join(lines[-_PROMPT_LINES:]), _PROMPT_STYLE)

    def delta(self, delta: Delta) -> None:
        self._write(delta.text, style_of(delta.tokens[0]) if delta.tokens else "")

    def end(self, completion: Completion) -> None:
        self._write("\n", "")
        drafted = dict.fromkeys(token.drafter for token in completion.tokens if token.drafter)
        signs = [Text(f"drafted by {name}", drafter_style(name)) for name in drafted]
        signs.append(Text(_TARGET_WORDS, TARGET_STYLE))
        self.remarks.print(Text(" · ").join(signs))
        self.remarks.print(Text(figures(completion)), soft_wrap=True)

    def _write(self, text: str, style: str) -> None:
        self.output.print(Text(text.translate(_CONTROL_SIGNS), style=style), end="", soft_wrap=True)


@dataclass(slots=True)
class PlainPrinter(Printer):
    """For pipes, files and terminals without colour: the text alone, and figures apart from it."""

    output: Console
    remarks: Console
    with_prompt: bool = False

    def begin(self, prompt: str) -> None:
        if self.with_prompt:
            self.output.file.write(prompt)

    def delta(self, delta: Delta) -> None:
        text = delta.text.translate(_CONTROL_SIGNS) if self.output.is_terminal else delta.text
        self.output.file.write(text)
        self.output.file.flush()

    def end(self, completion: Completion) -> None:
        if not completion.text.endswith("\n"):
            self.output.file.write("\n")
        self.output.file.flush()
        self.remarks.print(Text(figures(completion)), soft_wrap=True)


@dataclass(slots=True)
class JsonPrinter(Printer):
    """For programs: one object, at the end."""

    output: Console

    def end(self, completion: Completion) -> None:
        self.output.file.write(as_json(completion) + "\n")
        self.output.file.flush()


def printer_for(output: Console, remarks: Console, as_json: bool, with_prompt: bool = False) -> Printer:
    """The printer that suits stdout.

    Args:
        with_prompt: show the prompt even without colours, which would mark where it ends.
    """
    if as_json:
        return JsonPrinter(output)
    if output.is_terminal and output.color_system is not None and not output.no_color:
        return ColourPrinter(output, remarks)
    return PlainPrinter(output, remarks, with_prompt)


def figures(completion: Completion) -> str:
    """One line: speed, acceptance, and the seed that reproduces the completion."""
    ending = completion.ending
    stats = Stats.of(ending.usage)
    first_token_ns = stats.time_to_first_token_ns
    parts = [
        f"{ending.usage.completion_tokens} tokens",
        f"{number(stats.tokens_per_second, '.1f')} tokens/s",
        f"first token after {'-' if first_token_ns is None else f'{first_token_ns / 1e6:.0f} ms'}",
        f"acceptance rate {number(stats.acceptance_rate, '.2f')}",
        f"{number(stats.tokens_per_pass, '.2f')} tokens per pass",
        f"seed {ending.seed}",
        f"finish reason {ending.finish_reason.value}",
    ]
    if ending.lossy:
        rule = f"{ending.acceptance_rule.value} {ending.acceptance_parameter:g}"
        parts.append(f"LOSSY, judged by {rule}: tokens may not be the target's own")
    if ending.reason:
        parts.append(f"chosen {ending.reason}")
    return " · ".join(parts)


def described(served: Served) -> str:
    """Which models are served, and what each does."""
    drafting = f"{_described(served.draft)} drafts" if served.draft else "nobody drafts"
    return f"{_described(served.target)} verifies, {drafting}."


def as_json(completion: Completion) -> str:
    """One JSON object; what is undefined is null."""
    ending = completion.ending
    return json.dumps(
        {
            "text": completion.text,
            "token_ids": completion.token_ids,
            "origins": [token.origin.value for token in completion.tokens],
            "drafters": [token.drafter for token in completion.tokens],
            "finish_reason": ending.finish_reason.value,
            "seed": ending.seed,
            "passes": {speculation.value: passes for speculation, passes in ending.passes.items()},
            "reason": ending.reason,
            "acceptance_rule": ending.acceptance_rule.value,
            "acceptance_parameter": ending.acceptance_parameter,
            "lossy": ending.lossy,
            "stats": asdict(Stats.of(ending.usage)),
            "by_drafter": [asdict(each) for each in ending.usage.drafters],
        },
        ensure_ascii=False,
    )


def number(value: float | None, format_spec: str) -> str:
    """A figure for people; a dash where it is undefined."""
    return "-" if value is None else format(value, format_spec)


def _described(model: ModelDescription) -> str:
    return f"{model.model_id} ({model.parameters / 1e6:.1f} M parameters, {model.dtype})"
