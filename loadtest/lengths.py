"""Cuts prompts to a number of tokens of the server's tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Protocol

from tokenizers import Tokenizer

from loadtest.texts import text_of

PromptContent = str | tuple[int, ...]
_MOST_CHARACTERS_PER_TOKEN = 8


class Lengths(Protocol):
    """Knows how long a token is."""

    def cut(self, kind: str, head: str, tokens: int, generator: Random) -> PromptContent:
        """The head and then text of a kind, from a random line on, together about as many tokens long."""


@dataclass(frozen=True, slots=True)
class ByCharacters:
    """Counts characters, and knows how many a token of each kind's text has on average."""

    characters_per_token: Mapping[str, float]

    def cut(self, kind: str, head: str, tokens: int, generator: Random) -> str:
        characters = max(1, round(tokens * self.characters_per_token[kind]))
        return (head + text_of(kind, characters, generator))[:characters]


@dataclass(frozen=True, slots=True)
class ByTokenizer:
    """Counts tokens with a copy of the server's tokenizer; the prompts are token ids."""

    file: str

    def cut(self, kind: str, head: str, tokens: int, generator: Random) -> tuple[int, ...]:
        text = head + text_of(kind, _MOST_CHARACTERS_PER_TOKEN * tokens, generator)
        return tuple(_tokenizer(self.file).encode(text, add_special_tokens=False).ids[:tokens])


@cache
def _tokenizer(file: str) -> Tokenizer:
    return Tokenizer.from_file(file)
