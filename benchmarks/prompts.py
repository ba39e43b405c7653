"""The prompts to complete: built in, or from a file."""

from pathlib import Path

from pydantic import BaseModel, Field

from sybil_engine.prompts import Prompt, built_in_prompts, mixed, read_prompt_lines


class _Line(BaseModel):
    prompt: str = Field(min_length=1)
    category: str = "prompts"


def read_prompts(file: str, count: int) -> list[Prompt]:
    """The first prompts of a file, or of the built-in ones, taking one of each category in turn.

    Args:
        file: JSON lines, each with a `prompt` and perhaps a `category`; empty: the built-in prompts.

    Raises:
        InvalidSettings: the file cannot be read, or a line is no prompt.
    """
    return mixed(_from_file(Path(file)) if file else built_in_prompts(), count)


def _from_file(file: Path) -> list[Prompt]:
    lines = read_prompt_lines(file, _Line, '{"prompt": "text", "category": "stories"}')
    return [Prompt("", line.category, "", line.prompt) for line in lines]
