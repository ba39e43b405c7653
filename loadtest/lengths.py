"""Cuts prompts to a number of tokens of the server's tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Protocol

from tokenizers import Tokenizer

from loadtest.texts import text_of

PromptContent = str | tuple[int, ...]
# Enough for nearly every text; for others it is doubled.
_TRIED_CHARACTERS_PER_TOKEN = 6


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
        seed, characters = generator.getrandbits(64), _TRIED_CHARACTERS_PER_TOKEN * tokens
        while True:
            text = head + text_of(kind, characters, Random(seed))
            token_ids = _tokenizer(self.file).encode(text, add_special_tokens=False).ids
            if len(token_ids) >= tokens:
                return tuple(token_ids[:tokens])
            characters *= 2


@cache
def _tokenizer(file: str) -> Tokenizer:
    return Tokenizer.from_file(file)
