"""Which pages of the KV cache hold which session's cells: a table a session, and prompts' pages shared by content.

A session numbers its cells by itself: one for each position, and some beyond for branches. A page is taken when a cell
of it is first needed. A whole page of a prompt is shared: its cells depend on the prompt's tokens up to its end and on
nothing else, because every session feeds whole pages of prompts in the same shape. It stays after its last session
until the room is needed, the one unused longest first.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sybil_engine.core.errors import Exhausted

PAGE_CELLS = 64
"""Cells of a page: one chunk of a prompt."""

Cells = npt.NDArray[np.int64]
_NO_PAGE = -1


@dataclass(eq=False, slots=True)
class _PromptPage:
    """A whole page of some prompt.

    Attributes:
        before: the prompt's page before it; None for the first.
        token_ids: whose cells it holds.
        following: pages that come after it in some prompt, by their tokens.
        sessions: how many use it now.
    """

    page: int
    before: "_PromptPage | None"
    token_ids: tuple[int, ...]
    following: "dict[tuple[int, ...], _PromptPage]" = field(default_factory=dict)
    sessions: int = 0


@dataclass(eq=False, slots=True)
class _Session:
    """A session's pages.

    Attributes:
        table: the page of each of its pages of cells, or `_NO_PAGE`.
        shared: those of its prompt from the first on that other sessions may use; the rest are its own.
    """

    table: npt.NDArray[np.int64]
    shared: list[_PromptPage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PageCounts:
    """How the pages are used.

    Attributes:
        used: by sessions.
        free: by nobody; pages kept of earlier prompts count as free.
        shared: of `used`, those that several sessions use.
    """

    used: int
    free: int
    shared: int


class PagePool:
    """The pages of one cache.

    Args:
        pages: how many there are.
        cells: the most cells that a session may number.
        sessions: the most sessions at the same time.
        page_cells: cells of a page.
    """

    def __init__(self, pages: int, cells: int, sessions: int, page_cells: int = PAGE_CELLS) -> None:
        self.pages = pages
        self.page_cells = page_cells
        self._table_pages = -(-cells // page_cells)
        self.sessions = sessions
        # Pages that were given back, and the first of those that nobody has taken yet.
        self._free: list[int] = []
        self._fresh = 0
        # Those that no session uses, the one unused longest first. A page comes before the one that it follows.
        self._kept: dict[_PromptPage, None] = {}
        self._first: dict[tuple[int, ...], _PromptPage] = {}
        self._sessions: dict[int, _Session] = {}
        self._slots: list[int] = []

    @property
    def room(self) -> int:
        """How many pages can be taken."""
        return len(self._free) + len(self._kept) + self.pages - self._fresh

    @property
    def open_slots(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    @property
    def counts(self) -> PageCounts:
        """How the pages are used now."""
        # Other threads call this while sessions come and go.
        sessions = list(self._sessions.values())
        shared = {page for session in sessions for page in session.shared if page.sessions > 1}
        used = self.pages - self.room
        return PageCounts(used, self.room, len(shared))

    def allocate(self) -> int:
        """Open a table for a session; returns its slot, a number below the most sessions.

        Raises:
            Exhausted: there are as many sessions as may be.
        """
        if len(self._sessions) == self.sessions:
            raise Exhausted(f"{self.sessions} sessions are open, as many as may; try again or raise --max-sessions")
        slot = heapq.heappop(self._slots) if self._slots else len(self._sessions)
        self._sessions[slot] = _Session(np.full(self._table_pages, _NO_PAGE, dtype=np.int64))
        return slot

    def release(self, slot: int) -> None:
        """Close a session's table and give its pages back; its cells need no cleaning."""
        if slot not in self._sessions:
            raise ValueError(f"slot {slot} is not taken; release each allocated slot once")
        self.forget(slot)
        del self._sessions[slot]
        heapq.heappush(self._slots, slot)

    def forget(self, slot: int) -> None:
        """Give a session's pages back; it stays open."""
        session = self._sessions[slot]
        own = session.table[len(session.shared) :]
        for page in own[own != _NO_PAGE].tolist():
            heapq.heappush(self._free, page)
        for page in reversed(session.shared):
            page.sessions -= 1
            if not page.sessions:
                self._kept[page] = None
        session.table[:] = _NO_PAGE
        session.shared.clear()

    def reserve(self, slot: int, cells: range) -> bool:
        """Take the pages that a session lacks for a range of its cells; none if there are not enough."""
        table = self._range(slot, cells)
        lacking = np.flatnonzero(table == _NO_PAGE)
        if len(lacking) > self.room:
            return False
        for place in lacking:
            table[place] = self._take()
        return True

    def place(self, slot: int, cells: Any) -> Cells:
        """Where a session's cells lie in the cache."""
        numbers = np.asarray(cells, dtype=np.int64)
        pages = self._sessions[slot].table[numbers // self.page_cells]
        assert pages.min(initial=0) > _NO_PAGE, "cells without a page; reserve them first"
        return np.asarray(pages * self.page_cells + numbers % self.page_cells)

    def table(self, slot: int, pages: int) -> npt.NDArray[np.int64]:
        """The first pages of a session's table; -1 where there is none."""
        return self._sessions[slot].table[:pages]

    def reuse(self, slot: int, prompt: Sequence[int]) -> int:
        """Use pages that hold the next tokens of a prompt, as far as there are any.

        Returns:
            How many of the prompt's first cells are filled in pages that may be shared.
        """
        session = self._sessions[slot]
        for start in range(len(session.shared) * self.page_cells, len(prompt) - self.page_cells + 1, self.page_cells):
            page = self._following(session).get(tuple(prompt[start : start + self.page_cells]))
            if page is None:
                break
            self._use(session, page)
        return len(session.shared) * self.page_cells

    def needed(self, slot: int, prompt: Sequence[int], cells: int) -> int:
        """How much `room` a session that has no page would take for its first cells; it takes none.

        Pages of the prompt that other sessions use need no room. Those that are kept do, though they are filled.
        """
        following, used = self._following(self._sessions[slot]), 0
        for start in range(0, len(prompt) - self.page_cells + 1, self.page_cells):
            page = following.get(tuple(prompt[start : start + self.page_cells]))
            if page is None:
                break
            used += page.sessions > 0
            following = page.following
        return -(-cells // self.page_cells) - used

    def share(self, slot: int, position: int, token_ids: tuple[int, ...]) -> None:
        """Let other sessions use the whole pages of a part of a prompt that was fed.

        If another session fed the same meanwhile, its pages are used and these are given back.
        """
        session = self._sessions[slot]
        for start in range(0, len(token_ids) - self.page_cells + 1, self.page_cells):
            place = (position + start) // self.page_cells
            assert place == len(session.shared), "a prompt's pages are fed in order"
            tokens, following = token_ids[start : start + self.page_cells], self._following(session)
            if tokens not in following:
                before = session.shared[-1] if session.shared else None
                following[tokens] = _PromptPage(int(session.table[place]), before, tokens)
                session.table[place] = _NO_PAGE
            self._use(session, following[tokens])

    def _following(self, session: _Session) -> dict[tuple[int, ...], _PromptPage]:
        """The pages that come after a session's shared ones in some prompt."""
        return session.shared[-1].following if session.shared else self._first

    def _use(self, session: _Session, page: _PromptPage) -> None:
        """Use a page as a session's next shared one, in place of its own if it has one there."""
        place = len(session.shared)
        if (own := int(session.table[place])) != _NO_PAGE:
            heapq.heappush(self._free, own)
        session.table[place] = page.page
        session.shared.append(page)
        self._kept.pop(page, None)
        page.sessions += 1

    def _range(self, slot: int, cells: range) -> npt.NDArray[np.int64]:
        return self._sessions[slot].table[cells.start // self.page_cells : -(-cells.stop // self.page_cells)]

    def _take(self) -> int:
        """The lowest free page, so that a session's pages lie side by side; else the one unused longest."""
        if self._free:
            return heapq.heappop(self._free)
        if self._fresh < self.pages:
            self._fresh += 1
            return self._fresh - 1
        page = next(iter(self._kept))
        del self._kept[page]
        del (page.before.following if page.before else self._first)[page.token_ids]
        return page.page
