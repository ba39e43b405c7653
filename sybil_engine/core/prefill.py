"""In which order sessions get cells and are fed their prompts, and how much of the prompts before the next pass."""

from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar


class Prompted(Protocol):
    """A session whose prompt is fed in chunks."""

    @property
    def priority(self) -> int:
        """Higher ones come first."""

    @property
    def number(self) -> int:
        """In the order of opening."""

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens to feed before its first pass; 0 or less when there are none."""


Session = TypeVar("Session", bound=Prompted)

# Fractions of a chunk that add up to a whole one may fall short of it by this much.
_ROUNDING = 1e-9


def rank(session: Prompted) -> tuple[int, int]:
    """A session's place: higher priorities come first, then who came first."""
    return -session.priority, session.number


def first_come(prompts: Sequence[Session]) -> Session:
    """The prompt to feed next: first come, first served. So its first token waits for no later prompt."""
    return min(prompts, key=rank)


class Prefill(Generic[Session]):
    """Decides which prompt is fed next, and how much of it.

    While sessions are due, a limited number of tokens is fed before each pass: `share` times as many as are fed at
    once. What a prompt's end leaves of this number goes to the next prompt; what is less than a chunk is kept for the
    next pass. While no session is due, prompts are fed without limit.

    Args:
        chunk_tokens: prompts are fed in whole chunks of this length; a prompt's last one may be shorter.
        part_tokens: the most tokens that are fed at once: some chunks, which take little more time than one.
        share: how much to feed between two passes, as a multiple of `part_tokens`.
        choose: of the prompts that are not fed yet, the one to feed next.
    """

    def __init__(
        self,
        chunk_tokens: int,
        part_tokens: int,
        share: float = 1.0,
        choose: Callable[[Sequence[Session]], Session] = first_come,
    ) -> None:
        self._chunk_tokens = min(chunk_tokens, part_tokens)
        self._part_tokens = part_tokens
        self._share_tokens = share * part_tokens
        self._choose = choose
        # What may still be fed before the next pass.
        self._left_tokens = self._share_tokens

    def next_part(self, sessions: Collection[Session], *, due: bool) -> tuple[Session, int] | None:
        """The session whose prompt is fed now, and how many tokens of it; None if a pass comes first.

        Args:
            due: whether a session waits for a pass.
        """
        prompts = [session for session in sessions if session.prefill_tokens > 0]
        if not prompts:
            return None
        most_tokens = self._part_tokens
        if due:
            chunks = int(self._left_tokens / self._chunk_tokens + _ROUNDING)
            most_tokens = min(most_tokens, chunks * self._chunk_tokens)
        if not most_tokens:
            return None
        session = self._choose(prompts)
        return session, min(most_tokens, session.prefill_tokens)

    def fed(self, tokens: int) -> None:
        """Note that a part of this many tokens was fed; its last chunk counts as a whole one."""
        chunks = -(-tokens // self._chunk_tokens)
        self._left_tokens = max(0.0, self._left_tokens - chunks * self._chunk_tokens)

    def passed(self) -> None:
        """Note that a pass has run."""
        self._left_tokens = self._left_tokens % self._chunk_tokens + self._share_tokens
