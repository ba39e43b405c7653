"""The built-in texts that prompts are cut from: questions, Python code, and Python's own reference manual."""

import random
from functools import cache
from pydoc_data.topics import topics

from sybil_engine.prompts import built_in_prompts

_QUESTIONS = (
    "Explain {} with an example. ",
    "When should I use {}? ",
    "What do people get wrong about {}? ",
    "Summarise {} in three sentences. ",
    "How would you teach {} to a beginner? ",
)


def text_of(kind: str, characters: int, generator: random.Random) -> str:
    """Text of a kind, this long, from a random line on."""
    lines = _lines(kind)
    start, picked, length = generator.randrange(len(lines)), list[str](), 0
    while length < characters:
        line = lines[start % len(lines)]
        picked.append(line)
        length, start = length + len(line), start + 1
    return "".join(picked)[:characters]


@cache
def _lines(kind: str) -> tuple[str, ...]:
    """All text of a kind; no line is blank, so that each is a beginning of its own."""
    match kind:
        case "chat":
            asked = [question.format(topic.lower()) for topic in sorted(topics) for question in _QUESTIONS]
            random.Random(0).shuffle(asked)
            return tuple(asked)
        case "code":
            text = "\n".join(prompt.prompt for prompt in built_in_prompts())
        case _:
            text = "\n".join(topics[topic] for topic in sorted(topics))
    return tuple(line for line in text.splitlines(keepends=True) if line.strip())
