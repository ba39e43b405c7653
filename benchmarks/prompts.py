"""The prompts to complete: built in, or from a file."""

import json
from pathlib import Path
from typing import Any

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.prompts import Prompt, built_in_prompts, mixed

UNSORTED = "prompts"


def read_prompts(file: str, count: int) -> list[Prompt]:
    """The first prompts of a file, or of the built-in ones, taking one of each category in turn.

    Args:
        file: JSON lines, each with a `prompt` and perhaps a `category`; empty: the built-in prompts.

    Raises:
        InvalidSettings: the file cannot be read, or a line is no prompt.
    """
    return mixed(_from_file(Path(file)) if file else built_in_prompts(), count)


def _from_file(file: Path) -> list[Prompt]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not valid UTF-8"
        raise InvalidSettings(f"--prompts {file} cannot be read: {reason}; name a file of JSON lines") from None
    prompts = [_prompt(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise InvalidSettings(f"--prompts {file} holds no prompt; write JSON lines with a `prompt` field into it")
    return prompts


def _prompt(file: Path, number: int, line: str) -> Prompt:
    try:
        record: Any = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str) or not record["prompt"]:
        raise InvalidSettings(
            f"line {number} of {file} is not a prompt; each line must be a JSON object with a text called `prompt`"
        )
    return Prompt("", str(record.get("category", UNSORTED)), "", record["prompt"])
