"""Which rows join a verify pass: drafted tokens, and branches beside them, while they are worth their time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul

from sybil_engine.core.draft_tree import DraftNode
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.types import Speculation
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import Runner
from verifier_service.launch import DRAFTING_AHEAD
from verifier_service.session import VerifierSession

MOST_BRANCHES = 3
_CELLS_A_BRANCH = 32
BRANCH_CELLS = MOST_BRANCHES * _CELLS_A_BRANCH


@dataclass(frozen=True, slots=True)
class Share:
    """One session's rows in a pass: committed tokens whose cells are not filled yet, then drafted ones.

    A session may have several shares in a pass: its trunk, and branches that leave the trunk at some depth. A branch
    feeds everything from the first unfilled cell on again, into cells of its own. Its rows see their path's cells in
    path order, so they compute the same bits as if it stood alone.

    Attributes:
        drafted: judged in this pass. None when the committed tokens alone fill the share: then nothing is drawn.
        first_cell: where a branch's cells lie; None for the trunk.
    """

    session: VerifierSession
    committed: tuple[int, ...]
    drafted: tuple[int, ...] | None
    first_cell: int | None = None

    @property
    def rows(self) -> Rows:
        token_ids = self.committed + (self.drafted or ())
        return Rows(self.session.slot, self.session.fed_tokens, token_ids, self.first_cell)

    @property
    def drawn_rows(self) -> int:
        """The last committed token's row draws the first token, each drafted token's row the next one."""
        return 0 if self.drafted is None else len(self.drafted) + 1


@dataclass(frozen=True, slots=True)
class _Branch:
    """A branch that might be judged.

    Attributes:
        worth: tokens that it adds to what the pass commits, on average.
    """

    worth: float
    place: int
    drafted: tuple[int, ...]


class RowControl:
    """Fills passes.

    Args:
        max_window_tokens: the most drafted tokens of the trunk that one pass may judge for a session.
        pass_times: what decides whether a row pays; read here, written by whoever runs passes.
    """

    def __init__(self, runner: Runner, max_window_tokens: int, pass_times: PassTimes) -> None:
        self._runner = runner
        self.max_window_tokens = min(max_window_tokens, runner.max_rows - 1)
        self._pass_times = pass_times

    def choose(self, due: Sequence[VerifierSession]) -> list[list[Share]]:
        """Choose the rows of the sessions that are due: for each its trunk's share, then those of its branches.

        A drafted token is worth the chance that everything before it is accepted, and itself. The likeliest come first;
        once one of a trunk costs more of the pass's time than it brings, none behind it pays. Lockstep asked for its
        window and gets it.
        """
        most_rows = self._most_rows(len(due))
        trunks, expected = self._worth_while([self._trunk(session, most_rows) for session in due])
        chosen = [[trunk] for trunk in trunks]
        branches = [branch for place, trunk in enumerate(trunks) for branch in _branches(place, trunk)]
        if not branches:
            return chosen
        pass_ns = self._pass_times.expected_ns(self._runner.padded_rows([trunk.rows for trunk in trunks]))
        for branch in sorted(branches, key=lambda branch: -branch.worth):
            shares = [share for session in chosen for share in session]
            trunk, *others = chosen[branch.place]
            rows = len(trunk.committed) + len(branch.drafted)
            longest = max(rows, *(len(share.rows.token_ids) for share in shares))
            shape = self._runner.fit(len(shares) + 1, longest)
            if len(others) == MOST_BRANCHES or shape is None or shape[1] > _CELLS_A_BRANCH:
                continue
            longer_ns = self._pass_times.expected_ns(shape[0] * shape[1])
            if (expected + branch.worth) * pass_ns < expected * longer_ns:
                # Another one may fit the padding that is paid for.
                continue
            pass_ns = longer_ns
            first_cell = self._runner.branch_cells.start + _CELLS_A_BRANCH * len(others)
            chosen[branch.place].append(replace(trunk, drafted=branch.drafted, first_cell=first_cell))
            expected += branch.worth
        return chosen

    def _most_rows(self, sessions: int) -> int:
        """The most rows of each that one pass carries."""
        share = self._runner.max_rows // sessions
        return next((rows for rows in range(share, 0, -1) if self._runner.fit(sessions, rows)), max(1, share))

    def _trunk(self, session: VerifierSession, most_rows: int) -> Share:
        committed = tuple(session.ledger[session.fed_tokens :][:most_rows])
        if session.fed_tokens + len(committed) < len(session.ledger):
            return Share(session, committed, drafted=None)
        # A pass draws one token beyond the drafted ones: none is judged that the session has no room for.
        most_drafted = min(most_rows - len(committed), session.rule.max_window_tokens, session.room_tokens)
        path = session.tree.best_path()[:most_drafted]
        return Share(session, committed, drafted=tuple(node.token_id for node in path))

    def _worth_while(self, trunks: list[Share]) -> tuple[list[Share], float]:
        """Cut the trunks to the rows that pay; returns the tokens to be expected of the pass, too."""
        rows = sum(len(share.rows.token_ids) for share in trunks)
        row_ns = self._pass_times.row_ns
        chances = sorted(
            (
                (chance, place)
                for place, share in enumerate(trunks)
                if share.drafted and share.session.rule.speculation in DRAFTING_AHEAD
                for chance in _survivals(share)
            ),
            reverse=True,
        )
        kept = [len(share.drafted or ()) for share in trunks]
        for _, place in chances:
            kept[place] = 0
        rows -= len(chances)
        expected = float(sum(share.drafted is not None for share in trunks)) or 1.0
        for chance, place in chances:
            if chance * self._pass_times.expected_ns(rows) < row_ns * expected:
                break
            kept[place] += 1
            rows += 1
            expected += chance
        cut = [
            share if share.drafted is None else replace(share, drafted=share.drafted[:count])
            for share, count in zip(trunks, kept, strict=True)
        ]
        return cut, expected


def _path(share: Share) -> list[DraftNode]:
    """The drafted tokens of a trunk's share, in its session's tree."""
    return share.session.tree.best_path()[: len(share.drafted or ())]


def _survivals(share: Share) -> Iterator[float]:
    """For each drafted token of a trunk's share the chance that it is accepted."""
    pace = share.session.rule.pace
    return accumulate((pace.trusted_chance(node) for node in _path(share)), mul)


def _branches(place: int, trunk: Share) -> Iterator[_Branch]:
    """The branches that leave a trunk's path within the window."""
    session = trunk.session
    if trunk.drafted is None or session.rule.speculation is not Speculation.HEDGED or session.opening.tests_ratios:
        return
    pace = session.rule.pace
    most_tokens = min(session.rule.max_window_tokens, session.room_tokens)
    survives = 1.0
    fork = session.tree.root
    for depth, following in enumerate(_path(trunk)):
        hedges = (child for child in fork.children.values() if child is not following)
        for child in sorted(hedges, key=pace.trusted_chance, reverse=True)[:MOST_BRANCHES]:
            behind = session.tree.best_path(child)[: most_tokens - depth - 1]
            # The branch's own token is committed in any case; what it adds comes after it.
            adds = 1 + sum(accumulate((pace.trusted_chance(node) for node in behind), mul))
            drafted = (*trunk.drafted[:depth], child.token_id, *(node.token_id for node in behind))
            yield _Branch(survives * pace.trusted_chance(child) * adds, place, drafted)
        survives *= pace.trusted_chance(following)
        fork = following
