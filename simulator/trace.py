"""Recordings of a real pair: the target's text, and the drafter's guesses at every position of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

RANKS = 8
"""How many of the drafter's guesses a trace holds at each position; rank 8 means that none is the target's token."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One completion. All players must produce the target's text.

    The drafter's guesses are teacher-forced: each is made after the target's text before it. That is enough, because no
    token after a wrong guess is ever committed.

    Under its own sampling the drafter draws independently, and the ratio test judges it. Given that the committed token
    is t, it came from an accepted draft with probability min(1, draft_prob(t) / target_prob(t)). So coins with that
    chance, thrown along a text drawn from the target, give the exact joint distribution of texts and acceptances.

    Attributes:
        target_ids: [tokens].
        shared_ids: [tokens, 8], the drafter's guesses under the shared noise, best first.
        shared_certainties: [tokens, 8], its own probabilities for them under that noise; 0 if ruled out.
        own_ids: [tokens, 8], the drafter's most likely tokens, without noise.
        accepted: [tokens], whether the ratio test accepted.
        own_draft_ids: [tokens], what the ratio test judged: the target's token where it accepted, else another.
        prompt_ids: the text before it; empty: not known.
        vocabulary_size: of the target, for the noise that drew the text; 0: not known.
        bonus_matched: [tokens], whether a token drawn freely from the target is the drafter's own independent guess.
    """

    prompt_id: str
    temperature: float
    seed: int
    target_ids: Ints
    shared_ids: Ints
    shared_certainties: Floats
    own_ids: Ints
    accepted: Bools
    own_draft_ids: Ints
    bonus_matched: Bools
    prompt_ids: tuple[int, ...] = ()
    vocabulary_size: int = 0

    def __len__(self) -> int:
        return len(self.target_ids)

    @cached_property
    def shared_ranks(self) -> list[int]:
        """[tokens], the rank of the target's token among the guesses under the shared noise; 8 if absent."""
        return _ranks(self.shared_ids, self.target_ids)

    @cached_property
    def bonus_ranks(self) -> list[int]:
        """[tokens], the rank of the target's token by the drafter's own probabilities."""
        return _ranks(self.own_ids, self.target_ids)

    @cached_property
    def correction_ranks(self) -> list[int]:
        """[tokens], the same without the rejected token, which no correction can be."""
        without_draft = np.where(self.own_ids == self.own_draft_ids[:, None], -1, self.own_ids)
        ranks = _ranks(without_draft, self.target_ids)
        drafts = _ranks(self.own_ids, self.own_draft_ids)
        return [rank - (draft < rank < RANKS) for rank, draft in zip(ranks, drafts, strict=True)]

    @cached_property
    def own_rejections(self) -> list[int]:
        """[tokens + 1], the first position from each one on where the ratio test rejects."""
        return next_failures(self.accepted.tolist())


def next_failures(succeeded: Sequence[bool]) -> list[int]:
    """For each position, the first one from there on that did not succeed; the length if there is none.

    Returns:
        One element more than the argument, for players at the end of a text.
    """
    failures = [len(succeeded)] * (len(succeeded) + 1)
    for position in range(len(succeeded) - 1, -1, -1):
        failures[position] = failures[position + 1] if succeeded[position] else position
    return failures


def _ranks(guesses: Ints, token_ids: Ints) -> list[int]:
    hits = guesses == token_ids[:, None]
    ranks: list[int] = np.where(hits.any(axis=1), hits.argmax(axis=1), RANKS).tolist()
    return ranks
