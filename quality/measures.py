"""Measures of a text: how far it agrees with another, how much it repeats itself, whether it is Python."""

import ast
import warnings
from collections.abc import Sequence

# A completion breaks off anywhere: so many of its last lines may be left out for it to parse.
_MOST_LINES_LEFT_OUT = 6


def agreed_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two texts share."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def distinct(texts: Sequence[Sequence[int]], length: int) -> float:
    """Share of the n-grams of this length, over all texts, that are the first of their kind."""
    grams = [tuple(text[place : place + length]) for text in texts for place in range(len(text) - length + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def parses(prompt: str, completion: str) -> bool:
    """Whether prompt and completion are Python, if a few of the completion's last lines are left out, but not all."""
    lines = completion.splitlines(keepends=True)
    for kept in range(len(lines), max(0, len(lines) - 1 - _MOST_LINES_LEFT_OUT), -1):
        try:
            with warnings.catch_warnings():
                # Such as an invalid escape in a text that is only parsed.
                warnings.simplefilter("ignore")
                ast.parse(prompt + "".join(lines[:kept]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return True
    return False
