"""Which sessions hold cells when there are not enough for all of them.

Sessions start in order, as long as there is room. When the pool is full, the youngest one loses its cells and waits
until there is room again. Its tokens stay the same: cells are filled again as they were filled before.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from sybil_engine.core.errors import ContextExceeded
from sybil_engine.core.occupancy import Occupancy
from sybil_engine.models.pages import PagePool


class Resident(Protocol):
    """A session that may hold cells.

    Attributes:
        slot: its table in the pool.
        number: in the order of opening.
        resident: whether it holds cells.
    """

    slot: int
    number: int
    resident: bool

    @property
    def priority(self) -> int:
        """Higher ones come first."""

    @property
    def prompt(self) -> Sequence[int]:
        """The tokens to feed in chunks."""

    @property
    def tokens(self) -> int:
        """How many cells it needs before it goes on."""

    def enter(self, reused_tokens: int) -> None:
        """Start, with the cells of its first tokens filled."""

    def leave(self) -> None:
        """Stop: it holds no cells any more."""


Session = TypeVar("Session", bound=Resident)


class Residency(Generic[Session]):
    """Starts and evicts the sessions of one engine.

    Attributes:
        evicted: how many sessions have lost their cells.
        prompt_tokens, reused_tokens: of all sessions that started: of their prompts, and of these not to be fed.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self.evicted = self.prompt_tokens = self.reused_tokens = 0

    def occupancy(self, sessions: Collection[Session]) -> Occupancy:
        """How these sessions, all that are open, use the pool now."""
        running, pages = sum(each.resident for each in sessions), self._pool.counts
        return Occupancy(
            running,
            len(sessions) - running,
            self.evicted,
            self.prompt_tokens,
            self.reused_tokens,
            pages.used,
            pages.free,
            pages.shared,
        )

    def check(self, cells: int) -> None:
        """Check that a session fits into the pool when no other one is in it.

        Args:
            cells: the most that it will need.

        Raises:
            ContextExceeded: it does not.
        """
        held = self._pool.pages * self._pool.page_cells
        if cells > held:
            raise ContextExceeded(
                f"this session may need {cells} cells of the KV cache, which has {held}; ask for fewer tokens, or "
                "raise --cache-memory"
            )

    def start(self, sessions: Collection[Session]) -> list[Session]:
        """Let sessions that hold no cells start, in order, while there is room.

        Each session that runs is left one more page, so that the newest is not evicted at once.

        Returns:
            Those that started.
        """
        waiting = sorted((each for each in sessions if not each.resident), key=_order)
        started: list[Session] = []
        if not waiting:
            return started
        running = sum(each.resident for each in sessions)
        for session in waiting:
            reused, cells = self._pool.reuse(session.slot, session.prompt), range(session.tokens)
            if self._pool.missing(session.slot, cells) + running > self._pool.room:
                self._pool.forget(session.slot)
                break
            self._pool.reserve(session.slot, cells)
            session.resident = True
            session.enter(reused)
            self.prompt_tokens += len(session.prompt)
            self.reused_tokens += reused
            running += 1
            started.append(session)
        return started

    def hold(self, session: Session, cells: range, sessions: Iterable[Session]) -> bool:
        """Reserve cells for a session; if need be, evict younger ones. False if that is not enough."""
        while not self._pool.reserve(session.slot, cells):
            younger = [each for each in sessions if each.resident and _order(each) > _order(session)]
            if not younger:
                return False
            self.evict(max(younger, key=_order))
        return True

    def evict(self, session: Session) -> None:
        """Take a session's cells away."""
        self._pool.forget(session.slot)
        session.resident = False
        session.leave()
        self.evicted += 1


def _order(session: Resident) -> tuple[int, int]:
    return -session.priority, session.number
