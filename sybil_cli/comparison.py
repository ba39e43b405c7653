"""The same completions with every kind of speculation: how much faster, and whether the tokens are the same."""

from dataclasses import dataclass, field

from sybil_engine.core.completion import Completion, Stats, Usage
from sybil_engine.core.types import Speculation

ARMS = (Speculation.OFF, Speculation.LOCKSTEP, Speculation.PIPELINED)


@dataclass
class Comparison:
    """Completions by arm, added a round at a time: one prompt, one seed, each arm once.

    Attributes:
        compared_tokens: pairs of tokens that were compared, each arm against `off`.
        differences: how many of them differ, counting also the further tokens of a longer completion.
    """

    usages: dict[Speculation, list[Usage]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    compared_tokens: int = 0
    differences: int = 0
    rounds: int = 0

    def add(self, completions: dict[Speculation, Completion]) -> None:
        """Add one round."""
        reference = completions[Speculation.OFF].token_ids
        for arm, completion in completions.items():
            self.usages[arm].append(completion.ending.usage)
            if arm is not Speculation.OFF:
                self.compared_tokens += max(len(reference), len(completion.token_ids))
                self.differences += _differences(reference, completion.token_ids)
        self.rounds += 1

    def stats(self, arm: Speculation) -> Stats:
        """The rates of all of an arm's completions together."""
        return Stats.of(*self.usages[arm])

    def speedup(self, arm: Speculation) -> float | None:
        """Tokens per second against `off`."""
        mine, base = self.stats(arm).tokens_per_second, self.stats(Speculation.OFF).tokens_per_second
        return mine / base if mine is not None and base else None


def _differences(reference: tuple[int, ...], tokens: tuple[int, ...]) -> int:
    unequal = sum(mine != theirs for mine, theirs in zip(reference, tokens, strict=False))
    return unequal + abs(len(reference) - len(tokens))
