"""`python -m benchmarks.proposers`: what proposers cost, how often they are right, and how well they know it.

Python sources of the standard library are followed token by token, as if a target had written them. First estimates of
chances are set on modules that the embedded pair was trained on; the default here is the modules that were left out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import sysconfig
import tracemalloc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from sybil_engine.core.references import EMBEDDED_TARGET
from sybil_engine.core.session import SessionOpen
from sybil_engine.models.loading import tokenizer_json
from sybil_engine.proposers.lookup import Lookup
from sybil_engine.proposers.prediction import Prediction
from sybil_engine.proposers.proposer import Proposer
from sybil_engine.proposers.suffix import Suffix
from sybil_engine.proposers.suffix_index import MOST_AGREED, SuffixIndex

KINDS: dict[str, Callable[[], Proposer]] = {"lookup": Lookup, "suffix": Suffix}
PROMPT_TOKENS = 128
SESSION_TOKENS = 1024
# Tokens that are timed together, and how often.
CHUNK_TOKENS, CHUNKS = 250, 40
PATH_TOKENS = 8
FILE_TOKENS = 300
# Lines removed and put in at the same place.
_CHANGES = ((1, 1), (1, 0), (0, 1))


@dataclass
class Hits:
    """Continuations of one evidence.

    Attributes:
        estimated: sum of their chances.
        squared: sum of the squared errors of these.
    """

    given: int = 0
    right: int = 0
    estimated: float = 0.0
    squared: float = 0.0

    def add(self, chance: float, *, right: bool) -> None:
        """Count one."""
        self.given += 1
        self.right += right
        self.estimated += chance
        self.squared += (chance - right) ** 2


@dataclass
class Record:
    """How a proposer did, each position after all tokens before it.

    Attributes:
        top: positions at which its likeliest continuation was right; `named`: at which any was.
        by_evidence: as its continuations say.
    """

    positions: int = 0
    top: int = 0
    named: int = 0
    by_evidence: dict[Hashable, Hits] = field(default_factory=dict)

    def play(self, proposer: Proposer, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Let a fresh proposer follow a text, and count its guesses about the output."""
        proposer.follow(prompt)
        for token_id in output:
            given = proposer.continuations(())
            self.positions += 1
            if given:
                self.top += max(given, key=lambda each: each.chance).token_id == token_id
            for each in given:
                right = each.token_id == token_id
                self.named += right
                self.by_evidence.setdefault(each.evidence, Hits()).add(each.chance, right=right)
            proposer.follow([token_id])

    @property
    def brier(self) -> float:
        """Mean squared error of the first estimates."""
        return sum(each.squared for each in self.by_evidence.values()) / max(1, self.given)

    @property
    def given(self) -> int:
        """All continuations."""
        return sum(each.given for each in self.by_evidence.values())


@dataclass(frozen=True, slots=True)
class Cost:
    """What a proposer costs with many tokens held; times are medians of chunks.

    Attributes:
        token_us: to take a committed token and to say once what follows it; `fastest_us`: of the fastest chunk.
        path_us: to say what follows one more token of a path, of PATH_TOKENS.
        token_bytes: of memory for each token held, by tracemalloc.
        counted_bytes: the same as the index counts it; 0: it does not.
    """

    name: str
    held_tokens: int
    token_us: float
    fastest_us: float
    path_us: float
    token_bytes: float
    counted_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A file written again with a few changed lines.

    Attributes:
        new_tokens: in lines that its prediction lacks.
        wrong: tokens that the likeliest continuation was not, new ones included.
    """

    tokens: int
    new_tokens: int
    wrong: int


def read_texts(split: str, most_tokens: int) -> list[list[int]]:
    """Tokens of the files of a split, in an order drawn with a fixed seed."""
    tokenizer = Tokenizer.from_buffer(tokenizer_json(EMBEDDED_TARGET))
    manifest = json.loads(files("sybil_engine").joinpath("models", "embedded", "data_manifest.json").read_text())
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [library / each["path"] for each in manifest["files"] if each["split"] == split]
    random.Random(0).shuffle(paths)
    texts: list[list[int]] = []
    for path in filter(Path.is_file, paths):
        if sum(map(len, texts)) >= most_tokens:
            break
        texts.append(tokenizer.encode(path.read_text("utf-8", "replace")).ids)
    return texts


def cut_sessions(texts: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
    """Pieces as long as the embedded pair's context, each of one file."""
    for text in texts:
        for start in range(0, len(text) - 2 * PROMPT_TOKENS, SESSION_TOKENS):
            yield text[start : start + SESSION_TOKENS]


def measure_cost(name: str, make: Callable[[], Proposer], text: Sequence[int], held_tokens: int) -> Cost:
    """Time a proposer that holds a text's beginning, on what follows there."""
    tracemalloc.start()
    proposer = make()
    proposer.follow(text[:held_tokens])
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    token_us, path_us = [], []
    for start in range(held_tokens, held_tokens + CHUNKS * CHUNK_TOKENS, CHUNK_TOKENS):
        begun_ns = perf_counter_ns()
        for token_id in text[start : start + CHUNK_TOKENS]:
            proposer.continuations(())
            proposer.follow((token_id,))
        token_us.append((perf_counter_ns() - begun_ns) / CHUNK_TOKENS / 1e3)
        path_us.append(_time_path(proposer))
    return Cost(name, held_tokens, median(token_us), min(token_us), median(path_us), taken / held_tokens)


def measure_index(text: Sequence[int], held_tokens: int) -> Cost:
    """Time the suffix index alone: find the places of an end, and add a token."""
    tracemalloc.start()
    index = SuffixIndex()
    index.extend(text[:held_tokens])
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted, token_us = index.held_bytes, []
    for start in range(held_tokens, held_tokens + CHUNKS * CHUNK_TOKENS, CHUNK_TOKENS):
        begun_ns = perf_counter_ns()
        for place in range(start, start + CHUNK_TOKENS):
            index.matches(text[place - MOST_AGREED : place])
            index.extend(text[place : place + 1])
        token_us.append((perf_counter_ns() - begun_ns) / CHUNK_TOKENS / 1e3)
    shared = (taken / held_tokens, counted / held_tokens)
    return Cost("suffix index", held_tokens, median(token_us), min(token_us), 0.0, *shared)


def _time_path(proposer: Proposer) -> float:
    """Microseconds for each further token of a path."""
    path: tuple[int, ...] = ()
    given = proposer.continuations(path)
    begun_ns = perf_counter_ns()
    while given and len(path) < PATH_TOKENS:
        path += (max(given, key=lambda each: each.chance).token_id,)
        given = proposer.continuations(path)
    return (perf_counter_ns() - begun_ns) / max(1, len(path)) / 1e3


def split_lines(text: Sequence[int], newline_ids: frozenset[int]) -> list[list[int]]:
    """Cut after each end of a line."""
    lines: list[list[int]] = [[]]
    for token_id in text:
        lines[-1].append(token_id)
        if token_id in newline_ids:
            lines.append([])
    return [line for line in lines if line]


def edit(
    lines: Sequence[Sequence[int]], others: Sequence[Sequence[int]], source: random.Random
) -> tuple[list[int], int]:
    """Change three lines of a file: one is replaced, one is left out, one is put in; new ones come from other files.

    Returns:
        The changed file, and how many of its tokens are in new lines.
    """
    changed = [*lines]
    # From the last to the first, so that a change moves no place of the next one.
    places = sorted(source.sample(range(len(lines)), len(_CHANGES)), reverse=True)
    new_tokens = 0
    for place, (removed, added) in zip(places, source.sample(_CHANGES, len(_CHANGES)), strict=True):
        new = source.sample(others, added)
        changed[place : place + removed] = new
        new_tokens += sum(map(len, new))
    return [token_id for line in changed for token_id in line], new_tokens


def play_edits(texts: Sequence[Sequence[int]], newline_ids: frozenset[int]) -> tuple[Record, list[Rewrite]]:
    """Rewrite pieces of files with a few changed lines; the prediction is a piece as it was."""
    record, rewrites, source = Record(), [], random.Random(0)
    others = [line for text in texts for line in split_lines(text, newline_ids)]
    for text in texts:
        for start in range(0, len(text) - FILE_TOKENS, 4 * FILE_TOKENS):
            file = text[start : start + FILE_TOKENS]
            lines = split_lines(file, newline_ids)
            if len(lines) < len(_CHANGES):
                continue
            output, new_tokens = edit(lines, others, source)
            before = record.top
            opening = SessionOpen((0,), 1, prediction=tuple(file))
            record.play(Prediction(opening), opening.token_ids, output)
            rewrites.append(Rewrite(len(output), new_tokens, len(output) - (record.top - before)))
    return record, rewrites


def newlines(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens whose text holds the end of a line."""
    return frozenset(token_id for token_id in range(tokenizer.get_vocab_size()) if "\n" in tokenizer.decode([token_id]))


def show(costs: Sequence[Cost], records: Mapping[str, Record], rewrites: Sequence[Rewrite], least_given: int) -> None:
    """Print all figures."""
    console = Console()
    table = Table("proposer", "tokens held", "µs a token", "fastest", "µs along a path", "bytes a token", "counted")
    for cost in costs:
        shown = (cost.token_us, cost.fastest_us, cost.path_us, cost.token_bytes, cost.counted_bytes)
        table.add_row(cost.name, f"{cost.held_tokens}", *(f"{value:.1f}" if value else "" for value in shown))
    console.print(table)
    for name, record in records.items():
        console.print(_evidence(name, record, least_given))
        each = 1 / record.positions
        console.print(
            f"{name}: of {record.positions} positions the likeliest continuation is right at {record.top * each:.3f}, "
            f"any at {record.named * each:.3f}; {record.given * each:.2f} continuations each; "
            f"Brier score of first estimates {record.brier:.4f}"
        )
    beyond = [each.wrong - each.new_tokens for each in rewrites]
    console.print(
        f"{len(rewrites)} pieces of {FILE_TOKENS} tokens written again with {len(_CHANGES)} changed lines: "
        f"median of new tokens {median(each.new_tokens for each in rewrites):g}, "
        f"of tokens guessed wrong {median(each.wrong for each in rewrites):g}; "
        f"wrong beyond the new ones: median {median(beyond):g}, most {max(beyond)}"
    )


def _evidence(name: str, record: Record, least_given: int) -> Table:
    table = Table("evidence", "continuations", "right", "first estimate", title=name)
    for evidence, hits in sorted(record.by_evidence.items(), key=lambda item: str(item[0])):
        if hits.given >= least_given:
            shares = (f"{hits.right / hits.given:.3f}", f"{hits.estimated / hits.given:.3f}")
            table.add_row(str(evidence), f"{hits.given}", *shares)
    return table


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--split", choices=("train", "left_out"), default="left_out", help="of the sources (left_out)")
    parser.add_argument("--tokens", type=int, default=400_000, help="of sources at most, about (400000)")
    parser.add_argument("--held", type=int, default=100_000, help="tokens held while times are measured (100000)")
    parser.add_argument("--least-given", type=int, default=500, help="continuations for a row of evidence (500)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args(argv)
    texts = read_texts(arguments.split, arguments.tokens)
    text = [token_id for each in texts for token_id in each]
    timed = CHUNKS * CHUNK_TOKENS
    if not MOST_AGREED <= arguments.held <= len(text) - timed:
        parser.error(
            f"--held is {arguments.held}; it must be at least {MOST_AGREED}, and of the {len(text)} tokens that "
            f"were read leave {timed} to be timed: lower it, raise --tokens, or choose another --split"
        )
    costs = [measure_cost(name, make, text, arguments.held) for name, make in KINDS.items()]
    costs.append(measure_index(text, arguments.held))
    records = {name: Record() for name in KINDS}
    for session in cut_sessions(texts):
        for name, make in KINDS.items():
            records[name].play(make(), session[:PROMPT_TOKENS], session[PROMPT_TOKENS:])
    tokenizer = Tokenizer.from_buffer(tokenizer_json(EMBEDDED_TARGET))
    records["prediction"], rewrites = play_edits(texts, newlines(tokenizer))
    if arguments.json:
        shares = {name: {"top": each.top / each.positions, "brier": each.brier} for name, each in records.items()}
        print(
            json.dumps(
                {"costs": [asdict(cost) for cost in costs], "right": shares, "rewrites": list(map(asdict, rewrites))}
            )
        )
    else:
        show(costs, records, rewrites, arguments.least_given)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
