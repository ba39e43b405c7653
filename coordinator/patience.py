"""How often, and for how long, a lost stream is opened again."""

import asyncio
import time
from dataclasses import dataclass

from sybil_engine.core.errors import Exhausted, SybilError, Unavailable


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits on reopening, counted from the last progress.

    Attributes:
        reopen_s: how long to wait while there is nobody.
        attempts: how many streams may break one after the other.
    """

    reopen_s: float = 30.0
    attempts: int = 5
    first_pause_s: float = 0.01
    most_pause_s: float = 0.25


class Retries:
    """The pauses between one stream's attempts, and their end. The second attempt comes at once."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.succeeded()

    def succeeded(self) -> None:
        """Count anew: there was progress."""
        self._failing_since_s: float | None = None
        self._broken = 0
        self._pause_s = 0.0

    async def pause(self, error: SybilError) -> None:
        """Wait before the next attempt. Unavailable as error means that there was nobody to try.

        Raises:
            Exhausted: every slot has been taken for too long.
            Unavailable: there has been nobody for too long, or too many streams broke.
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
