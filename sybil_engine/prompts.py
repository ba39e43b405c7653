"""The built-in prompts: beginnings of real Python code, from modules that the embedded models were not trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sybil_engine.core.errors import SybilError

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
