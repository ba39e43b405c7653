"""How often, and for how long, the pipeline tries to reopen a lost stream."""

import asyncio
import time
from dataclasses import dataclass

from sybil_engine.core.errors import Exhausted, SybilError, Unavailable


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits on reopening a stream, counted from the last progress.

    Attributes:
        reopen_s: how long to wait for a service.
        attempts: how many streams in a row may break.
    """

    reopen_s: float = 30.0
    attempts: int = 5
    first_pause_s: float = 0.01
    most_pause_s: float = 0.25


class Retries:
    """Pauses between attempts to open a stream, until patience ends. There is no pause before the second attempt."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.succeeded()

    def succeeded(self) -> None:
        """Note progress: start counting again."""
        self._failing_since_s: float | None = None
        self._broken = 0
        self._pause_s = 0.0

    async def pause(self, error: SybilError) -> None:
        """Wait before the next attempt. If `error` is Unavailable, there was no service to try.

        Raises:
            Exhausted: every slot has been taken for too long.
            Unavailable: no service has been there for too long, or too many streams broke.
        """
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        waited_s = now_s - self._failing_since_s
        if not isinstance(error, Unavailable):
            self._broken += 1
        if waited_s >= self._patience.reopen_s or self._broken >= self._patience.attempts:
            kind = Exhausted if isinstance(error, Exhausted) else Unavailable
            raise kind(
                f"the session could not go on: {error} ({self._broken} streams broke, {waited_s:.1f} s were waited); "
                "try again: with resume_token_ids nothing is lost"
            ) from error
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(max(2 * self._pause_s, self._patience.first_pause_s), self._patience.most_pause_s)
