"""Traces of pairs that never were: each position is judged independently, with set chances."""

from collections.abc import Sequence

import numpy as np

from simulator.trace import RANKS, Trace

_VOCABULARY = 1_000


def synthetic_trace(
    tokens: int,
    rank_chances: Sequence[float],
    seed: int = 0,
    *,
    bonus_chance: float | None = None,
    temperature: float = 0.0,
) -> Trace:
    """A trace whose target token has each rank with its chance, independently at every position.

    Args:
        rank_chances: of ranks 0, 1, ...; what they lack to 1 is the chance of being none of the guesses.
        bonus_chance: that an independent guess of the drafter's agrees with a freely drawn token; left out, as often as
            a drafted token is accepted, as at temperature 0.
    """
    generator = np.random.default_rng(seed)
    chances = np.zeros(RANKS + 1)
    chances[: len(rank_chances)] = rank_chances
    chances[RANKS] = 1 - chances[:RANKS].sum()
    ranks = generator.choice(RANKS + 1, size=tokens, p=chances)
    target_ids = generator.integers(_VOCABULARY, size=tokens)
    # Whatever the others are, they are not the target's token.
    guesses = (target_ids[:, None] + 1 + np.arange(RANKS)) % _VOCABULARY
    guessed = ranks < RANKS
    guesses[guessed, ranks[guessed]] = target_ids[guessed]
    accepted = ranks == 0
    matched = accepted if bonus_chance is None else generator.random(tokens) < bonus_chance
    return Trace(
        prompt_id=f"synthetic-{seed}",
        temperature=temperature,
        seed=seed,
        target_ids=target_ids,
        shared_ids=guesses,
        shared_certainties=np.tile(chances[:RANKS], (tokens, 1)),
        own_ids=guesses,
        accepted=accepted,
        own_draft_ids=np.where(accepted, target_ids, guesses[:, 0]),
        bonus_matched=matched,
        vocabulary_size=_VOCABULARY,
    )
