"""The prompts to complete: built in, or from a file."""

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.prompts import Prompt, built_in_prompts, mixed


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
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not valid UTF-8"
        raise InvalidSettings(f"--prompts {file} cannot be read: {reason}; name a file of JSON lines") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                read = _Line.model_validate_json(line)
            except ValidationError:
                raise InvalidSettings(
                    f"line {number} of {file} is not a prompt; each line must be a JSON object with a text called "
                    "`prompt`, and perhaps one called `category`"
                ) from None
            prompts.append(Prompt("", read.category, "", read.prompt))
    if not prompts:
        raise InvalidSettings(f"--prompts {file} holds no prompt; write JSON lines with a `prompt` field into it")
    return prompts
