"""Which rows a verify pass carries: drafted tokens, and branches beside them, while they are worth their time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul
from typing import Generic, Protocol, TypeVar

from sybil_engine.core.draft_tree import DraftNode, DraftTree
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.plan import DraftPlan
from verifier_service.policy.pace import Pace

MOST_BRANCHES = 6
CELLS_A_BRANCH = 16

Path = tuple[DraftNode, ...]


class DueSession(Protocol):
    """A session that takes part in the next pass: what choosing its rows needs to know."""

    @property
    def plan(self) -> DraftPlan: ...

    @property
    def pace(self) -> Pace: ...

    @property
    def tree(self) -> DraftTree: ...

    @property
    def unfed_tokens(self) -> int:
        """Committed tokens whose cells are not filled yet."""

    @property
    def window_tokens(self) -> int:
        """The most drafted tokens of one path that the pass may judge."""

    @property
    def hedges(self) -> bool:
        """Whether branches may be judged beside the trunk."""

    @property
    def mixes(self) -> bool:
        """Whether guesses of several kinds compete by their chances."""


Session = TypeVar("Session", bound=DueSession)


@dataclass(frozen=True, slots=True)
class Share(Generic[Session]):
    """One session's rows in a pass: committed tokens whose cells are not filled yet, then drafted ones.

    A session may have several shares in a pass: its trunk, and branches that leave the trunk at some depth. A branch
    feeds everything from the first unfilled cell on once more, into cells of its own. Its rows see the cells of their
    path in path order, so they compute the same bits as if the branch were fed alone.

    Attributes:
        committed_tokens: how many of its rows are committed tokens.
        path: the drafted tokens to judge. None if committed tokens fill the share: then nothing is drawn.
        branch: 0 for the trunk, else the branch's number.
    """

    session: Session
    committed_tokens: int
    path: Path | None
    branch: int = 0

    @property
    def rows(self) -> int:
        return self.committed_tokens + len(self.path or ())

    @property
    def drawn_rows(self) -> int:
        """Rows that draw a token: the last committed token's row, and each drafted token's."""
        return 0 if self.path is None else len(self.path) + 1


@dataclass(frozen=True, slots=True)
class _Branch:
    """A branch that may be judged.

    Attributes:
        place: index of its session among those that are due.
        worth: tokens that it adds to the pass's commits, on average.
    """

    place: int
    worth: float
    path: Path


class RowControl:
    """Chooses the rows of a pass.

    Args:
        max_rows: the most rows of one pass, over all its sessions.
        pass_times: decide whether a row pays; only read here.
    """

    def __init__(self, max_rows: int, pass_times: PassTimes) -> None:
        self._max_rows = max_rows
        self._pass_times = pass_times

    def choose(self, due: Sequence[Session]) -> list[list[Share[Session]]]:
        """Choose the rows of the sessions that are due: for each its trunk's share, then those of its branches.

        A drafted token's worth is the chance that it and everything before it are accepted. The likeliest tokens are
        taken first, whoever guessed them, until one costs more of the pass's time than it is worth. A session in
        lockstep gets the whole window that it waited for, unless proposers take part.
        """
        most_rows = max(1, self._max_rows // len(due))
        trunks, expected = self._worthwhile([_trunk(session, most_rows) for session in due])
        chosen = [[trunk] for trunk in trunks]
        branches = [branch for place, trunk in enumerate(trunks) for branch in _branches(place, trunk)]
        if branches:
            self._add_branches(chosen, branches, expected)
        return chosen

    def _worthwhile(self, trunks: Sequence[Share[Session]]) -> tuple[list[Share[Session]], float]:
        """Cut the trunks to the rows that pay. Returns them, and the expected tokens of the pass."""
        survivals = [list(_survivals(share)) if _weighs(share.session) else [] for share in trunks]
        chances = sorted(((chance, place) for place, each in enumerate(survivals) for chance in each), reverse=True)
        kept = [0 if each else len(share.path or ()) for share, each in zip(trunks, survivals, strict=True)]
        rows = sum(share.committed_tokens for share in trunks) + sum(kept)
        expected = float(sum(share.path is not None for share in trunks)) or 1.0
        for chance, place in chances:
            if chance * self._pass_times.expected_ns(rows) < self._pass_times.row_ns * expected:
                break
            kept[place] += 1
            rows += 1
            expected += chance
        cut = [
            share if share.path is None else replace(share, path=share.path[:count])
            for share, count in zip(trunks, kept, strict=True)
        ]
        return cut, expected

    def _add_branches(self, chosen: list[list[Share[Session]]], branches: Sequence[_Branch], expected: float) -> None:
        """Add the branches that pay, in order of decreasing worth."""
        rows = sum(trunk.rows for (trunk,) in chosen)
        for branch in sorted(branches, key=lambda branch: -branch.worth):
            trunk, *others = chosen[branch.place]
            longer = rows + trunk.committed_tokens + len(branch.path)
            if len(others) == MOST_BRANCHES or longer > self._max_rows or longer - rows > CELLS_A_BRANCH:
                continue
            pass_ns, longer_ns = self._pass_times.expected_ns(rows), self._pass_times.expected_ns(longer)
            if (expected + branch.worth) * pass_ns < expected * longer_ns:
                # Another branch may be shorter, or fit into rows that are padding so far.
                continue
            rows = longer
            chosen[branch.place].append(replace(trunk, path=branch.path, branch=len(others) + 1))
            expected += branch.worth


def _trunk(session: Session, most_rows: int) -> Share[Session]:
    committed_tokens = min(session.unfed_tokens, most_rows)
    if committed_tokens < session.unfed_tokens:
        return Share(session, committed_tokens, path=None)
    most_drafted = min(most_rows - committed_tokens, session.window_tokens)
    return Share(session, committed_tokens, path=tuple(_likeliest(session, session.tree.root, most_drafted)))


def _weighs(session: DueSession) -> bool:
    """Whether a session's rows are weighed one by one."""
    return session.mixes or session.plan.speculation.drafts_ahead


def _likeliest(session: DueSession, node: DraftNode, most: int) -> Sequence[DraftNode]:
    """The path to judge after a node: the trunk, or by chance where guesses of several kinds compete."""
    if not session.mixes:
        return (session.tree.trunk if node is session.tree.root else session.tree.best_path(node))[:most]
    path: list[DraftNode] = []
    while node.children and len(path) < most:
        node = max(node.children.values(), key=session.pace.trusted_chance)
        path.append(node)
    return path


def _survivals(share: Share[Session]) -> Iterator[float]:
    """For each drafted token of a trunk's share, the chance that it is accepted."""
    return accumulate((share.session.pace.trusted_chance(node) for node in share.path or ()), mul)


def _branches(place: int, trunk: Share[Session]) -> Iterator[_Branch]:
    """The branches that leave a trunk's path within the window."""
    session = trunk.session
    if trunk.path is None or not session.hedges:
        return
    pace = session.pace
    survives = 1.0
    fork = session.tree.root
    for depth, following in enumerate(trunk.path):
        hedges = (child for child in fork.children.values() if child is not following)
        for child in sorted(hedges, key=pace.trusted_chance, reverse=True)[:MOST_BRANCHES]:
            rest = _likeliest(session, child, session.window_tokens - depth - 1)
            # The branch's first token is committed anyway, as the target's own; the tokens after it are the gain.
            adds = 1 + sum(accumulate((pace.trusted_chance(node) for node in rest), mul))
            yield _Branch(place, survives * pace.trusted_chance(child) * adds, (*trunk.path[:depth], child, *rest))
        survives *= pace.trusted_chance(following)
        fork = following
