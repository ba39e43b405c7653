"""Who drafts ahead: one policy, chosen once for a request, says how its session opens."""

from dataclasses import dataclass, replace
from typing import Protocol

from sybil_engine.core.types import HEDGED_DRAFT_ROWS, SessionOpen, Speculation

LOCKSTEP_WINDOW_TOKENS = 5
PIPELINED_BUDGET_TOKENS = 12


class Policy(Protocol):
    """How a session speculates."""

    @property
    def speculation(self) -> Speculation: ...

    @property
    def drafts(self) -> bool:
        """Whether a drafter is opened at all."""

    def opening(self, opening: SessionOpen) -> SessionOpen:
        """What both services are told when the session opens or reopens."""


@dataclass(frozen=True, slots=True)
class Off:
    """No drafter: one token a pass."""

    speculation = Speculation.OFF
    drafts = False

    def opening(self, opening: SessionOpen) -> SessionOpen:
        return replace(opening, speculation=self.speculation, window_tokens=0, draft_budget=0)


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Draft exactly one window, verify it, draft the next one."""

    window_tokens: int = LOCKSTEP_WINDOW_TOKENS

    speculation = Speculation.LOCKSTEP
    drafts = True

    def opening(self, opening: SessionOpen) -> SessionOpen:
        return replace(
            opening,
            speculation=self.speculation,
            window_tokens=self.window_tokens,
            draft_budget=self.window_tokens,
            push_tokens=self.window_tokens,
        )


@dataclass(frozen=True, slots=True)
class Pipelined:
    """Draft the next window while the current one is verified.

    Attributes:
        window_tokens: the most that one pass may judge; 0 leaves it to the verifier.
    """

    window_tokens: int = 0

    speculation = Speculation.PIPELINED
    drafts = True
    draft_rows = 1

    def opening(self, opening: SessionOpen) -> SessionOpen:
        return replace(
            opening,
            speculation=self.speculation,
            window_tokens=self.window_tokens,
            draft_budget=max(PIPELINED_BUDGET_TOKENS, 2 * self.window_tokens),
            draft_rows=self.draft_rows,
        )


@dataclass(frozen=True, slots=True)
class Hedged(Pipelined):
    """Pipelined, and branches from runner-up tokens are drafted, too."""

    speculation = Speculation.HEDGED
    draft_rows = HEDGED_DRAFT_ROWS


@dataclass(frozen=True, slots=True)
class Auto(Pipelined):
    """Let the drafter begin with a trunk; the verifier goes on with what it measures to be fastest.

    On a shared processor it begins with a window, as lockstep does: drafting on would hold up the first pass.
    """

    speculation = Speculation.AUTO

    def opening(self, opening: SessionOpen) -> SessionOpen:
        opened = Pipelined.opening(self, opening)
        if not opening.shares_processor:
            return opened
        first_tokens = self.window_tokens or LOCKSTEP_WINDOW_TOKENS
        return replace(opened, draft_budget=first_tokens, push_tokens=first_tokens)


def policy(speculation: Speculation, window_tokens: int) -> Policy:
    """The policy that a request asks for.

    Args:
        window_tokens: 0 leaves it to the policy.
    """
    match speculation:
        case Speculation.OFF:
            return Off()
        case Speculation.LOCKSTEP:
            return Lockstep(window_tokens or LOCKSTEP_WINDOW_TOKENS)
        case Speculation.PIPELINED:
            return Pipelined(window_tokens)
        case Speculation.HEDGED:
            return Hedged(window_tokens)
        case Speculation.AUTO:
            return Auto(window_tokens)
