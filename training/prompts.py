"""The built-in prompts: beginnings of code, docstrings and doctests from modules that no model was trained on."""

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from sybil_engine.prompts import Prompt
from training.corpus import SourceFile

SEED = 64
PROMPTS_PER_CATEGORY = 22
PROMPTS_PER_MODULE = 4
PROMPT_TOKENS = range(60, 251)
LINES_LEFT = 4
DEMONSTRATION = ("heapq", "def nsmallest(")
"""Module and beginning of the first prompt."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Cut:
    """A possible prompt: lines `first_line` to `last_line` of a file, counted from 0, both included."""

    category: str
    file: SourceFile
    first_line: int
    last_line: int

    def text(self) -> str:
        """The lines, without the final newline."""
        return "\n".join(self.file.text.split("\n")[self.first_line : self.last_line + 1])

    def is_natural(self, tokenizer: PreTrainedTokenizerFast) -> bool:
        """Whether it has the right length, and its tokens do not change when the next line is appended."""
        lines = self.file.text.split("\n")
        alone = tokenizer(self.text()).input_ids
        continued = tokenizer("\n".join(lines[self.first_line : self.last_line + 2])).input_ids
        return len(alone) in PROMPT_TOKENS and continued[: len(alone)] == alone


def cut_prompts(files: Sequence[SourceFile], tokenizer: PreTrainedTokenizerFast) -> list[Prompt]:
    """Draw prompts of every category with a fixed seed, at most four from one module, one from one definition."""
    prompts: list[Prompt] = []
    for category, find in (("code", _code_cuts), ("docstring", _docstring_cuts), ("doctest", _doctest_cuts)):
        rng = random.Random(f"{SEED}/{category}")
        cuts = [cut for file in files for cut in find(file)]
        rng.shuffle(cuts)
        cuts.sort(key=lambda cut: not _is_demonstration(cut))
        taken: Counter[str] = Counter()
        starts: set[tuple[str, int]] = set()
        for cut in cuts:
            place = (cut.file.path, cut.first_line)
            if sum(taken.values()) == PROMPTS_PER_CATEGORY or taken[cut.file.module] == PROMPTS_PER_MODULE:
                continue
            if place not in starts and cut.is_natural(tokenizer):
                starts.add(place)
                taken[cut.file.module] += 1
                number = sum(taken.values())
                prompts.append(Prompt(f"{category}-{number:02}", cut.category, cut.file.module, cut.text()))
    return prompts


def _is_demonstration(cut: Cut) -> bool:
    module, beginning = DEMONSTRATION
    return cut.file.module == module and cut.text().lstrip().startswith(beginning)


def _definitions(file: SourceFile) -> Iterator[Definition]:
    return (node for node in ast.walk(ast.parse(file.text)) if isinstance(node, Definition))


def _docstring(node: Definition | ast.Module) -> ast.Expr | None:
    match node.body:
        case [ast.Expr(ast.Constant(str())) as docstring, *_]:
            return docstring
    return None


def _docstring_lines(file: SourceFile) -> Iterator[tuple[int, int]]:
    """The first line of a definition, and each line inside its docstring, counted from 0."""
    for node in (ast.parse(file.text), *_definitions(file)):
        docstring = _docstring(node)
        if docstring is not None and docstring.end_lineno is not None:
            first = 0 if isinstance(node, ast.Module) else node.lineno - 1
            for line in range(docstring.lineno, docstring.end_lineno - 2):
                yield first, line


def _code_cuts(file: SourceFile) -> Iterator[Cut]:
    """From the first line of a function to a line of its body that has more after it."""
    lines = file.text.split("\n")
    for node in _definitions(file):
        if isinstance(node, ast.ClassDef) or node.end_lineno is None:
            continue
        docstring = _docstring(node)
        body_start = (docstring.end_lineno or 0) if docstring else node.body[0].lineno - 1
        for last in range(body_start + 2, node.end_lineno - LINES_LEFT):
            if lines[last].strip() and not lines[last].strip().startswith("#"):
                yield Cut("code", file, node.lineno - 1, last)


def _docstring_cuts(file: SourceFile) -> Iterator[Cut]:
    """From the first line of a definition into the prose of its docstring."""
    lines = file.text.split("\n")
    for first, last in _docstring_lines(file):
        if len(lines[last].split()) > 5 and re.search(r"[a-z,]$", lines[last]) and ">>>" not in lines[last]:
            yield Cut("docstring", file, first, last)


def _doctest_cuts(file: SourceFile) -> Iterator[Cut]:
    """From the beginning of a docstring's dialogue to an expression whose value comes next."""
    lines = file.text.split("\n")
    for first, last in _docstring_lines(file):
        follower = lines[last + 1].strip()
        if lines[last].lstrip().startswith(">>> ") and follower and not follower.startswith((">>>", "...")):
            yield Cut("doctest", file, max(first, last - 14), last)
