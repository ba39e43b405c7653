"""One completion on its way to the client: tokens become text, and stop strings end it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from coordinator.pipeline import Progress
from coordinator.stop_strings import StopStrings
from coordinator.tokenizer import Detokenizer
from sybil_engine.core.types import FinishReason, TokenOrigin


@dataclass(frozen=True, slots=True)
class Delta:
    """What a client gets next: tokens, and the text that became certain with them."""

    text: str
    token_ids: tuple[int, ...] = ()
    origins: tuple[TokenOrigin, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason | None = None

    @classmethod
    def joined(cls, deltas: Sequence[Self]) -> Self:
        """Several in a row as one."""
        if len(deltas) == 1:
            return deltas[0]
        return cls(
            "".join(delta.text for delta in deltas),
            tuple(token_id for delta in deltas for token_id in delta.token_ids),
            tuple(origin for delta in deltas for origin in delta.origins),
            tuple(logprob for delta in deltas for logprob in delta.logprobs),
            deltas[-1].finish_reason,
        )


class Completion:
    """Follows a session's tokens and says what the client gets."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], stop_token_ids: frozenset[int]) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._stop_token_ids = stop_token_ids

    def resume(self, token_ids: Sequence[int]) -> Delta | None:
        """Follow tokens that the client has; returns the end if they hold it."""
        for token_id in token_ids:
            if token_id in self._stop_token_ids:
                return Delta(self._stops.flush(), finish_reason=FinishReason.STOP)
            if self._stops.push(self._detokenizer.push(token_id)).stopped:
                return Delta("", finish_reason=FinishReason.STOP)
        return None

    def end(self) -> Delta:
        """The end of a completion that has all the tokens it may have."""
        return Delta(self._stops.flush(), finish_reason=FinishReason.LENGTH)

    def take(self, progress: Progress) -> Delta:
        """Follow new tokens, up to and including the one that completes a stop string."""
        text = ""
        for count, token_id in enumerate(progress.token_ids, start=1):
            # A stop token stands for no text, special or not.
            released = self._stops.push("" if token_id in self._stop_token_ids else self._detokenizer.push(token_id))
            text += released.text
            if released.stopped:
                return Delta(
                    text,
                    progress.token_ids[:count],
                    progress.origins[:count],
                    progress.logprobs[:count],
                    FinishReason.STOP,
                )
        if progress.finish_reason:
            text += self._stops.flush()
        return Delta(text, progress.token_ids, progress.origins, progress.logprobs, progress.finish_reason)
