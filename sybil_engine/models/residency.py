"""Which sessions hold cells when there are not enough for all of them, and how their prompts' cells are filled.

Sessions start in the order of `rank`, as long as there is room. When the pool is full, the last in order loses its
cells and waits until there is room again. Its tokens stay the same: cells are filled again as they were filled before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from sybil_engine.core.errors import ContextExceeded
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.occupancy import Occupancy
from sybil_engine.core.prefill import Prefill, rank
from sybil_engine.core.session import SessionOpen
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import Runner


class Resident(ABC):
    """A session that may hold cells.

    Attributes:
        opening: what opened it.
        slot: its table in the pool.
        number: in the order of opening.
        ledger: prompt and committed tokens.
        prompt: the tokens to feed in chunks: all but the prompt's last one, whose row draws the first token.
        resident: whether it holds cells.
        reused_tokens: of its prompt, found in pages of other sessions when it started.
        has_room: whether the reader of what it emits keeps up; while not, it pauses.
    """

    def __init__(self, opening: SessionOpen, slot: int, number: int, has_room: Callable[[], bool]) -> None:
        self.opening = opening
        self.slot = slot
        self.number = number
        self.ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self.prompt = opening.token_ids[: opening.prompt_tokens - 1]
        self.resident = False
        self.reused_tokens = 0
        self.has_room = has_room

    @property
    def priority(self) -> int:
        """See `SessionOpen.priority`."""
        return self.opening.priority

    @property
    @abstractmethod
    def fed_tokens(self) -> int:
        """How many of the ledger's first tokens have filled cells."""

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens to feed before decode passes."""
        return len(self.prompt) - self.fed_tokens

    @property
    def unfed_tokens(self) -> int:
        """Tokens of the ledger whose cells are not filled yet."""
        return len(self.ledger) - self.fed_tokens

    @abstractmethod
    def feed(self, tokens: int) -> None:
        """Note that the cells of this many more prompt tokens are filled."""

    @abstractmethod
    def leave(self) -> None:
        """Note that no cell is filled any more."""


Session = TypeVar("Session", bound=Resident)


class Residency(Generic[Session]):
    """Starts, feeds and evicts the sessions of one engine.

    Args:
        prefill: decides whose prompt is fed next.

    Attributes:
        evicted: how many sessions have lost their cells.
        prompt_tokens, reused_tokens: of all sessions that started: of their prompts, and of these not to be fed.
    """

    def __init__(self, runner: Runner, prefill: Prefill[Session]) -> None:
        self._runner = runner
        self._pool = runner.pool
        self._prefill = prefill
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

    def start(self, waiting: Collection[Session], sessions: Collection[Session]) -> list[Session]:
        """Let sessions that hold no cells and don't pause start, in order, while there is room.

        Those that pause make room for them.

        Args:
            sessions: all that are open.

        Returns:
            Those that started.
        """
        started: list[Session] = []
        for session in sorted((each for each in waiting if each.has_room()), key=rank):
            running = [each for each in sessions if each.resident]
            while not self._fits(session, len(running)):
                pausing = [each for each in running if not each.has_room()]
                if not pausing:
                    return started
                self.evict(max(pausing, key=rank))
                running = [each for each in running if each.resident]
            self._start(session)
            started.append(session)
        return started

    def _fits(self, session: Session, running: int) -> bool:
        """Whether there is room for a session to start.

        Each session that runs, and the one that starts, is left one more page, so that it is not evicted at once.
        """
        spare = running + 1 if running else 0
        # Its last token has a page of its own, whatever it shares.
        if self._pool.room <= spare:
            return False
        return self._pool.needed(session.slot, session.prompt, len(session.ledger)) + spare <= self._pool.room

    def _start(self, session: Session) -> None:
        reused = self._pool.reuse(session.slot, session.prompt)
        self._pool.reserve(session.slot, range(len(session.ledger)))
        session.resident = True
        session.reused_tokens = reused
        session.feed(reused)
        self.prompt_tokens += len(session.prompt)
        self.reused_tokens += reused

    def feed(self, sessions: Collection[Session], *, due: bool) -> Session | None:
        """Feed a part of a prompt, unless a pass comes first.

        Args:
            sessions: whose prompts may be fed; all hold cells.
            due: whether a session waits for a pass.

        Returns:
            Whose prompt it was; None: there is nothing to feed now.
        """
        part = self._prefill.next_part(sessions, due=due)
        if part is None:
            return None
        session, tokens = part
        start = session.fed_tokens
        # Another session may have fed the same meanwhile.
        reused = self._pool.reuse(session.slot, session.prompt) - start
        if reused > 0:
            session.feed(reused)
            return session
        self._runner.prefill(Rows(session.slot, start, session.prompt[start : start + tokens]))
        session.feed(tokens)
        self._prefill.fed(tokens)
        return session

    def passed(self) -> None:
        """Note that a pass has run."""
        self._prefill.passed()

    def hold(self, session: Session, cells: range, sessions: Collection[Session]) -> None:
        """Reserve cells for a session that holds some.

        While there are not enough, a session that pauses is evicted, or else the last in order. That may be the session
        itself.

        Args:
            sessions: all that are open.
        """
        while session.resident and not self._pool.reserve(session.slot, cells):
            self.evict(max((each for each in sessions if each.resident), key=_expendability))

    def evict(self, session: Session) -> None:
        """Take a session's cells away."""
        self._pool.forget(session.slot)
        session.resident = False
        session.leave()
        self.evicted += 1


def _expendability(session: Resident) -> tuple[bool, tuple[int, int]]:
    """The greatest gives up its cells first."""
    return not session.has_room(), rank(session)
