"""One completion as text: tokens become characters, and stop strings end it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from coordinator.pipeline import NewTokens
from coordinator.stop_strings import StopStrings
from coordinator.tokenizer import Detokenizer
from sybil_engine.core.types import CommittedToken, FinishReason


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of one origin and one drafter, and the text that became certain with them.

    Attributes:
        finish_reason: set on the last one.
    """

    text: str
    tokens: tuple[CommittedToken, ...] = ()
    finish_reason: FinishReason | None = None


class Transcript:
    """Follows a session's tokens and returns what the client gets."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], stop_token_ids: frozenset[int]) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._stop_token_ids = stop_token_ids

    def resume(self, token_ids: Sequence[int]) -> Passage | None:
        """Follow tokens that the client already has. Returns the end if they contain it."""
        for token_id in token_ids:
            if token_id in self._stop_token_ids:
                return Passage(self._stops.flush(), finish_reason=FinishReason.STOP)
            self._stops.push(self._detokenizer(token_id))
            if self._stops.stopped:
                return Passage("", finish_reason=FinishReason.STOP)
        return None

    def end(self) -> Passage:
        """The end of a completion that has reached its token limit."""
        return Passage(self._stops.flush(), finish_reason=FinishReason.LENGTH)

    def take(self, new: NewTokens) -> Iterator[Passage]:
        """Follow new tokens, a passage for each run of one drafter, up to the one that completes a stop string."""
        runs = [tuple(run) for _, run in groupby(new.tokens, key=lambda token: (token.origin, token.drafter))] or [()]
        for number, run in enumerate(runs, start=1):
            passage = self._follow(run, new.finish_reason if number == len(runs) else None)
            yield passage
            if passage.finish_reason:
                return

    def _follow(self, run: tuple[CommittedToken, ...], finish_reason: FinishReason | None) -> Passage:
        text = ""
        for count, token in enumerate(run, start=1):
            # A stop token stands for no text, special or not.
            known = token.token_id in self._stop_token_ids
            text += self._stops.push("" if known else self._detokenizer(token.token_id))
            if self._stops.stopped:
                return Passage(text, run[:count], FinishReason.STOP)
        return Passage(text + self._stops.flush() if finish_reason else text, run, finish_reason)
