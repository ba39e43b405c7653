"""One session as the drafter sees it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from drafter_service.calibration import Calibration
from drafter_service.cells import CellMap
from drafter_service.growth import Drafted, Growth
from drafter_service.proposals import Proposals
from sybil_engine.core.errors import ContextExceeded
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.session import Advance, SessionOpen
from sybil_engine.core.types import Block
from sybil_engine.models.residency import Resident
from sybil_engine.proposers.registry import Registry
from sybil_engine.sampling.judges import judge_for
from sybil_engine.serving.opening import check_token_ids


@dataclass(frozen=True, slots=True)
class SessionRoom:
    """What a session may use.

    Attributes:
        slot: its table in the KV cache.
        cells: how many cells it may use.
        max_position: the session ends when this many tokens are committed; none is drafted at or beyond it.
        vocabulary_size: token ids are smaller.
    """

    slot: int
    cells: int
    max_position: int
    vocabulary_size: int


@dataclass(slots=True)
class _HeldBack:
    """Drafted tokens that follow one another and are not sent yet."""

    tokens: list[Drafted]
    draft_ns: int
    known_tokens: int

    def block(self) -> Block:
        first = self.tokens[0]
        return Block(
            first.prefix.position + 1,
            first.prefix.fingerprint,
            tuple(each.token_id for each in self.tokens),
            first.origin,
            tuple(each.distribution for each in self.tokens if each.distribution),
            self.draft_ns,
            tuple(each.chance for each in self.tokens),
            self.known_tokens,
        )


class DrafterSession(Resident):
    """Ledger, growing draft tree, cells, and the plan that the drafting follows.

    Attributes:
        max_position: the session ends when this many tokens are committed.
        growth: the draft tree.
        cells: where the tokens of the tree and of the ledger lie.
        plan: what to draft.
        emit: takes the blocks of each push.
        proposals: of the proposers that run here.
    """

    def __init__(
        self,
        opening: SessionOpen,
        room: SessionRoom,
        noise: NoiseTape,
        calibration: Calibration,
        emit: Callable[[tuple[Block, ...] | Exception], None],
        number: int,
        has_room: Callable[[], bool],
        registry: Registry,
    ) -> None:
        super().__init__(opening, room.slot, number, has_room)
        self.max_position = room.max_position
        self.noise = noise
        self.emit = emit
        self.judge = judge_for(opening)
        self.plan = opening.plan
        self._calibration = calibration
        self._room = room
        self.leave()
        self._held_back: list[_HeldBack] = []
        self.proposals = Proposals(registry, opening, self.ledger, noise, room.vocabulary_size)
        self._outgoing: list[Block] = self.proposals.blocks(self._depth)

    @property
    def fed_tokens(self) -> int:
        """See `Resident.fed_tokens`."""
        return self.cells.fed_tokens

    def feed(self, tokens: int) -> None:
        """See `Resident.feed`."""
        self.cells.feed_prompt(tokens)

    def leave(self) -> None:
        """See `Resident.leave`; the draft tree grows anew."""
        self.growth = Growth(
            self.ledger, self._calibration, allows_hedges=self.judge.allows_hedges, share=self.opening.share
        )
        spare_cells = self._room.cells - self._room.max_position
        self.cells = CellMap(self.slot, self.ledger, self.growth.tree, spare_cells)
        self.growth.aim(self.plan, self._depth)

    def next_cells(self, most_rows: int) -> range:
        """Where a pass may put tokens."""
        used = self.cells.used_cells
        return range(used, min(used + most_rows, self._room.cells))

    @property
    def wants_draft(self) -> bool:
        return self._depth > 0 and (self.unfed_tokens > 0 or self.growth.has_candidates(self.cells.hedge_cells))

    @property
    def _depth(self) -> int:
        # The session's last token is the target's own: a token drafted for its position would never be judged.
        return min(self.plan.budget, self.max_position - 1 - len(self.ledger))

    def advance(self, advance: Advance) -> None:
        """Append committed tokens. A repeated or late advance brings no new token, and changes nothing.

        Raises:
            InvalidRequest: a token that the draft model does not know.
            ContextExceeded: tokens beyond the session's end; reopening it would not help.
            SessionError: the commit leaves a gap or contradicts the ledger.
        """
        end = advance.position + len(advance.token_ids)
        if end > self.max_position:
            raise ContextExceeded(
                f"the commit ends at position {end}, but the session at {self.max_position}, where max_position or the "
                "draft model's context ends; go on without this drafter"
            )
        # An unknown token would break the pass of every session in it.
        check_token_ids("token_ids", advance.token_ids, self._room.vocabulary_size)
        if not self.ledger.append(advance):
            return
        self.growth.advance()
        self.cells.advance()
        self.plan = advance.plan
        self.growth.aim(self.plan, self._depth)
        self.proposals.follow()
        self._outgoing += self.proposals.blocks(self._depth)
        self._release()

    def drafted(self, tokens: Iterable[Drafted], draft_ns: int) -> None:
        """Take what a pass drafted."""
        before: Drafted | None = None
        for each in tokens:
            # One pass drafts two tokens of a hedge; its time is counted once.
            same_path = before is not None and each.follows(before)
            self._hold_back(each, 0 if same_path else draft_ns)
            before = each
        self._release()

    def _hold_back(self, drafted: Drafted, draft_ns: int) -> None:
        known_tokens = len(self.ledger)
        last = self._held_back[-1] if self._held_back else None
        if last and last.known_tokens == known_tokens and drafted.follows(last.tokens[-1]):
            last.tokens.append(drafted)
            last.draft_ns += draft_ns
        else:
            self._held_back.append(_HeldBack([drafted], draft_ns, known_tokens))

    def _release(self) -> None:
        """Release drafted tokens to be pushed, once there are as many as the verifier waits for."""
        if len(self.growth.tree.trunk) >= self.plan.hold_until or not self.wants_draft:
            self._outgoing += (run.block() for run in self._held_back)
            self._held_back.clear()

    def push(self) -> None:
        """Push the released blocks in one message: each message costs three processes time."""
        if self._outgoing:
            self.emit(tuple(self._outgoing))
            self._outgoing.clear()
