"""What proposers gain by drawing through the shared noise: `python -m benchmarks.shared_noise --help`.

The target completes prompts above temperature 0. Then each proposer is asked at each position what comes next, and its
guess is taken once without the noise (the continuation of the highest chance) and once with it (the winner under the
noise that the target used). Both see the same continuations, so the difference is the noise's.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from benchmarks.prompts import read_prompts
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.references import EMBEDDED_TARGET
from sybil_engine.core.session import SessionOpen
from sybil_engine.models.loading import tokenizer_json
from sybil_engine.proposers.asked import Asked, FailureCounts, Guessed
from sybil_engine.proposers.evidence import EvidenceTable
from sybil_engine.proposers.lookup import Lookup
from sybil_engine.proposers.proposer import Proposer
from sybil_engine.proposers.suffix import Suffix
from sybil_engine.proposers.under_noise import rank
from sybil_local import LocalEngine

_KINDS: dict[str, Callable[[], Proposer]] = {"lookup": Lookup, "suffix": Suffix}


@dataclass
class GuessScore:
    """How often one proposer's guess was right, and how well its chances predicted that.

    Attributes:
        guesses: positions at which it named a token; `several`: at which it named more than one.
        brier: sum of squared errors of the chances, without and with the noise.
    """

    positions: int = 0
    guesses: int = 0
    several: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])
    right_of_several: list[int] = field(default_factory=lambda: [0, 0])
    brier: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, guessed: Sequence[Guessed], ranked: Sequence[tuple[int, float]], token_id: int) -> None:
        """Add a position: what was guessed, the same ranked under the noise, and what the target drew."""
        self.positions += 1
        if not guessed:
            return
        self.guesses += 1
        self.several += len(guessed) > 1
        plain = max(guessed, key=lambda each: each.chance)
        for way, (guess, chance) in enumerate(((plain.continuation.token_id, plain.chance), ranked[0])):
            self.right[way] += guess == token_id
            self.right_of_several[way] += len(guessed) > 1 and guess == token_id
            self.brier[way] += (chance - (guess == token_id)) ** 2

    def lines(self, name: str) -> Iterator[str]:
        """The figures in words."""
        share = self.guesses / max(1, self.positions)
        yield f"{name}: guesses at {share:.0%} of {self.positions} positions, several tokens at {self.several} of them"
        for way, label in enumerate(("without the noise", "with the noise")):
            yield (
                f"  {label:18} right {self.right[way] / max(1, self.guesses):.3f}; where it names several "
                f"{self.right_of_several[way] / max(1, self.several):.3f}; "
                f"Brier score of its chances {self.brier[way] / max(1, self.guesses):.4f}"
            )
        gain = math.log(self.right[1] / self.right[0]) if min(self.right) else 0.0
        yield f"  more right guesses by the noise: {math.expm1(gain):+.1%}"


def score(
    make: Callable[[], Proposer], texts: Sequence[tuple[SessionOpen, Sequence[int]]], vocabulary_size: int
) -> GuessScore:
    """Ask a proposer at every position of some texts.

    Args:
        texts: openings and what the target said after them.
    """
    total, table = GuessScore(), EvidenceTable()
    for opening, text in texts:
        asked = Asked("", make(), table, vocabulary_size, FailureCounts())
        noise = NoiseTape(opening.seed, vocabulary_size)
        asked.follow(opening.token_ids)
        for position, token_id in enumerate(text, start=len(opening.token_ids)):
            guessed = asked.continuations(())
            tokens, chances = [each.continuation.token_id for each in guessed], [each.chance for each in guessed]
            total.add(guessed, rank(tokens, chances, noise.rows(position, 1)[0]) if guessed else (), token_id)
            asked.learn(guessed, token_id)
            asked.follow([token_id])
    return total


def main(argv: Sequence[str]) -> int:
    """Complete prompts and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_noise", description=__doc__)
    parser.add_argument("--count", type=int, default=24, help="prompts")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.4, 0.8, 1.0])
    arguments = parser.parse_args(argv)
    prompts = read_prompts("", arguments.count)
    tokenizer = Tokenizer.from_str(tokenizer_json(EMBEDDED_TARGET).decode())
    with LocalEngine() as engine:
        for temperature in arguments.temperatures:
            texts = []
            for number, prompt in enumerate(prompts):
                print(f"temperature {temperature:g}: prompt {number + 1} of {len(prompts)}", end="\r", file=sys.stderr)
                token_ids = tuple(tokenizer.encode(prompt.prompt).ids)
                completion = engine.generate(
                    token_ids, max_tokens=arguments.max_tokens, temperature=temperature, seed=number
                )
                texts.append((SessionOpen(token_ids, len(token_ids), seed=number), completion.token_ids))
            print(f"temperature {temperature:g}, {len(prompts)} prompts", flush=True)
            for name, make in _KINDS.items():
                for line in score(make, texts, engine.target.vocabulary_size).lines(name):
                    print(f"  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
