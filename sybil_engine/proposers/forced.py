"""`forced`: tokens that a constraint on the output leaves no choice about."""

from collections.abc import Sequence
from typing import Protocol

from sybil_engine.proposers.proposer import Continuation, Proposer


class OutputConstraint(Protocol):
    """What an output must look like, for example a grammar."""

    def follow(self, token_ids: Sequence[int]) -> None:
        """Take the next committed tokens of the output."""

    def only_token(self, path: tuple[int, ...]) -> int | None:
        """The one token that may follow the committed ones and these; None if there is a choice, or an end."""


class Forced(Proposer):
    """Gives the token that must come.

    Args:
        constraint: None: every output will do, and nothing is forced.
        prompt_tokens: how many of the session's first tokens are not output.
    """

    cost_ns = 2_000

    def __init__(self, constraint: OutputConstraint | None = None, prompt_tokens: int = 0) -> None:
        self._constraint = constraint
        self._prompt_tokens = prompt_tokens
        self._seen_tokens = 0

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        if self._constraint:
            self._constraint.follow(token_ids[max(0, self._prompt_tokens - self._seen_tokens) :])
        self._seen_tokens += len(token_ids)

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        """See `Proposer.continuations`."""
        token_id = self._constraint.only_token(path) if self._constraint else None
        return () if token_id is None else [Continuation(token_id, 1.0)]
