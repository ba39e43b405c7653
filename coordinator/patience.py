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
        attempts: how many streams may break in a row: a pass that fails every time must not be tried for `reopen_s`.
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
        """Wait before the next attempt.

        Args:
            error: if it is Unavailable, there was no service to try: that is waited for, and is no broken stream.

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
        if self._broken >= self._patience.attempts:
            raise Unavailable(
                f"the session broke {self._broken} times in a row without a new token, at last with: {error}; "
                "see the service's log, and go on with resume_token_ids once it is mended"
            ) from error
        if waited_s >= self._patience.reopen_s:
            kind = Exhausted if isinstance(error, Exhausted) else Unavailable
            raise kind(
                f"the session could not go on within {waited_s:.1f} s: {error}; "
                "try again: with resume_token_ids nothing is lost"
            ) from error
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(max(2 * self._pause_s, self._patience.first_pause_s), self._patience.most_pause_s)
