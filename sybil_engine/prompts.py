"""Files of prompts, one JSON object a line: the built-in ones, and those that a user names.

The built-in prompts are beginnings of real Python code, from modules that the embedded models were not trained on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sybil_engine.core.errors import InvalidSettings, SybilError

Line = TypeVar("Line", bound=BaseModel)
_FILE = Path(__file__).parent / "models" / "embedded" / "prompts.jsonl"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One built-in prompt.

    Attributes:
        category: where the prompt breaks off: in code, a docstring or a doctest.
        module: the module of CPython's standard library that it comes from.
    """

    id: str
    category: str
    module: str
    prompt: str


def built_in_prompts(file: Path = _FILE) -> list[Prompt]:
    """Read the prompts that come with the package.

    Raises:
        SybilError: their file is missing.
    """
    try:
        return [Prompt(**json.loads(line)) for line in file.read_text().splitlines()]
    except FileNotFoundError as error:
        raise SybilError(f"{file} is missing; install the package again") from error


def mixed(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first `count` prompts, taking one of each category in turn."""
    ranks: dict[str, int] = {}
    ranked = []
    for prompt in prompts:
        ranks[prompt.category] = rank = ranks.get(prompt.category, -1) + 1
        ranked.append((rank, prompt))
    return [prompt for _, prompt in sorted(ranked, key=lambda pair: pair[0])][:count]


def read_prompt_lines(file: Path, line_type: type[Line], example: str) -> tuple[Line, ...]:
    """Read the file that `--prompts` names; blank lines are left out.

    Args:
        example: a line, for who wrote another.

    Raises:
        InvalidSettings: the file cannot be read, holds no prompt, or a line is no prompt.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not valid UTF-8"
        raise InvalidSettings(f"--prompts {file} cannot be read: {reason}; name a file of JSON lines") from None
    prompts = tuple(
        _read_line(f"line {number} of {file}", line, line_type, example)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not prompts:
        raise InvalidSettings(f"--prompts {file} holds no prompt; write lines such as {example} into it")
    return prompts


def _read_line(place: str, line: str, line_type: type[Line], example: str) -> Line:
    try:
        return line_type.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidSettings(
            f"{place} is not a prompt ({f'{where}: ' if where else ''}{first['msg']}); write {example}"
        ) from None
