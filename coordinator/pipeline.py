"""The pipeline of one session: blocks from the drafter to the verifier, commits back, and the ledger in between.

It knows neither gRPC nor Ray; its creator passes functions that open streams.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from coordinator.patience import Patience, Retries
from coordinator.relay import Relay
from coordinator.usage import DraftedBlock, Meter
from sybil_engine.core.errors import SessionError, SessionLost, SybilError, Unavailable
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.session import Advance, Commit, DrafterShare, SessionOpen
from sybil_engine.core.types import MOST_MESSAGE_TOKENS, CommittedToken, FinishReason

logger = logging.getLogger(__name__)

# Blocks kept for a verifier that takes over; each runner-up is a block of its own.
_MOST_UNJUDGED_BLOCKS = 2048


class PassingBlock(DraftedBlock, Protocol):
    """The fields of a passing block that are read. The rest is forwarded as it is."""

    @property
    def position(self) -> int: ...


class VerifierStream(Protocol):
    """One session on a verifier. Every method raises a SybilError when the stream breaks."""

    async def open(self, opening: SessionOpen) -> None:
        """Send the opening, once, before any block."""

    async def offer(self, blocks: Sequence[PassingBlock]) -> None:
        """Send blocks, at least one."""

    def commits(self) -> AsyncIterator[Commit]:
        """The verifier's commits, as they come."""


class DrafterStream(Protocol):
    """One session on a drafter. Every method raises a SybilError when the stream breaks."""

    @property
    def address(self) -> str:
        """Names the drafter."""

    async def open(self, opening: SessionOpen) -> None:
        """Send the opening, once, before any commit."""

    async def advance(self, advances: Sequence[Advance]) -> None:
        """Send what a drafter reads of commits, in order; at least one."""

    def blocks(self) -> AsyncIterator[Sequence[PassingBlock]]:
        """The drafter's blocks, as they come."""


# Each picks a service and holds a place on it until the block is left, which also ends the stream at once.
# Entering raises Unavailable when there is no service. A drafter is none of those at the addresses given.
OpenVerifier = Callable[[], AbstractContextManager[VerifierStream]]
OpenDrafter = Callable[[Collection[str]], AbstractContextManager[DrafterStream]]


@dataclass(frozen=True, slots=True)
class NewTokens:
    """New tokens, and why the session ended if these are its last."""

    tokens: tuple[CommittedToken, ...]
    finish_reason: FinishReason | None


class Pipeline:
    """One session from its opening to its end, whatever breaks in between."""

    def __init__(
        self,
        opening: SessionOpen,
        open_verifier: OpenVerifier,
        open_drafter: OpenDrafter,
        meter: Meter,
        patience: Patience,
        drafters: int = 1,
    ) -> None:
        """
        Args:
            drafters: how many drafter services may work for the session at once.
        """
        self._drafters = drafters
        # The drafters that are attached: by the stream's address, what relays commits to it.
        self._to_drafters: dict[str, Relay[Advance]] = {}
        self._first_opening = opening
        self._open_verifier = open_verifier
        self._open_drafter = open_drafter
        self._meter = meter
        self._patience = patience
        self._ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self._plan = opening.plan
        self._unjudged: deque[PassingBlock] = deque(maxlen=_MOST_UNJUDGED_BLOCKS)
        self._to_verifier: Relay[PassingBlock] | None = None

    async def run(self) -> AsyncGenerator[NewTokens, None]:
        """Run until the session ends. Closing the generator ends both streams at once.

        Raises:
            InvalidRequest, ContextExceeded: the verifier refuses the request.
            Unavailable, Exhausted: no verifier could continue within the patience.
            SessionError: verifiers keep failing.
        """
        drafting: list[asyncio.Task[None]] = []
        retries = Retries(self._patience)
        try:
            while True:
                try:
                    drafting = drafting or self._start_drafting()
                    with self._open_verifier() as verifier, self._relay_blocks(verifier):
                        async for commit in verifier.commits():
                            fresh = self._take(commit)
                            drafting = drafting or self._start_drafting()
                            retries.succeeded()
                            # Let the relay send it first: the drafter has work to do, the client has not.
                            await asyncio.sleep(0)
                            if fresh or commit.finish_reason:
                                yield NewTokens(commit.tokens[len(commit.tokens) - fresh :], commit.finish_reason)
                            if commit.finish_reason:
                                return
                    raise SessionLost("the verifier ended the session without saying why")
                except (SessionError, Unavailable) as error:
                    await self._pause(retries, error, "verifier")
        finally:
            for task in drafting:
                task.cancel()
            if drafting:
                await asyncio.wait(drafting)

    def _take(self, commit: Commit) -> int:
        """Append a commit to the ledger and pass it on to the drafter. Returns how many of its tokens are new."""
        arrived_ns = self._meter.now_ns()
        fresh = self._ledger.append(commit)
        if fresh:
            self._plan = commit.plan
        for relay in self._to_drafters.values():
            relay.put((commit.advance,), arrived_ns)
        while self._unjudged and _end(self._unjudged[0]) <= len(self._ledger):
            self._unjudged.popleft()
        if fresh or commit.finish_reason:
            self._meter.committed(commit, arrived_ns)
        return fresh

    def _start_drafting(self) -> list[asyncio.Task[None]]:
        """Attach drafters if the plan asks for drafts."""
        drafts = self._plan.budget and self._first_opening.drafts_by_model
        shares = [DrafterShare(index, self._drafters) for index in range(self._drafters if drafts else 0)]
        return [asyncio.create_task(self._keep_drafting(share)) for share in shares]

    async def _keep_drafting(self, share: DrafterShare) -> None:
        """Keep a drafter attached for a share of the work while one can help. The verifier never waits for this."""
        retries = Retries(replace(self._patience, reopen_s=math.inf))
        try:
            while True:
                try:
                    with self._open_drafter(self._to_drafters) as drafter, self._relay_commits(drafter, share):
                        async for blocks in drafter.blocks():
                            self._meter.drafter = drafter.address
                            self._pass_on(blocks)
                            retries.succeeded()
                    raise SessionLost("the drafter ended the session")
                except (SessionError, Unavailable) as error:
                    await self._pause(retries, error, "drafter")
        except SybilError as error:
            logger.warning("going on without a drafter: %s", error)
        except Exception:
            logger.exception("going on without a drafter")

    def _pass_on(self, blocks: Sequence[PassingBlock]) -> None:
        """Pass blocks on to the verifier, and keep them until they are judged, in case another verifier takes over."""
        arrived_ns = self._meter.now_ns()
        if self._to_verifier:
            self._to_verifier.put(blocks, arrived_ns)
        for block in blocks:
            self._unjudged.append(block)
            self._meter.drafted(block, arrived_ns)

    @contextmanager
    def _relay_blocks(self, verifier: VerifierStream) -> Iterator[None]:
        """Open the session on a verifier and pass it the blocks that are not judged yet."""
        opening = replace(self._first_opening, token_ids=tuple(self._ledger[:]))
        relay = Relay(partial(verifier.open, opening), verifier.offer, self._meter.relayed, _newest)
        with closing(relay) as self._to_verifier:
            self._to_verifier.put(self._unjudged, self._meter.now_ns())
            try:
                yield
            finally:
                self._to_verifier = None

    @contextmanager
    def _relay_commits(self, drafter: DrafterStream, share: DrafterShare) -> Iterator[None]:
        """Open the session on a drafter with the latest plan; all later commits follow, in order."""
        self._meter.drafter = drafter.address
        opening = replace(self._first_opening, token_ids=tuple(self._ledger[:]), plan=self._plan, share=share)
        relay = Relay(partial(drafter.open, opening), drafter.advance, self._meter.relayed, _joined)
        with closing(relay):
            self._to_drafters[drafter.address] = relay
            try:
                yield
            finally:
                del self._to_drafters[drafter.address]

    async def _pause(self, retries: Retries, error: SessionError | Unavailable, service: str) -> None:
        if isinstance(error, SessionError):
            logger.info("reopening a stream of session %s: %s", self._first_opening.session_id, error)
            self._meter.reopened(service)
        await retries.pause(error)


def _newest(blocks: Sequence[PassingBlock]) -> Sequence[PassingBlock]:
    """The blocks to send to a verifier that is behind: losing others is harmless."""
    return blocks[-_MOST_UNJUDGED_BLOCKS:]


def _joined(advances: Sequence[Advance]) -> Sequence[Advance]:
    """The same commits in as few messages as may hold them, for a drafter that is behind."""
    joined = [advances[0]]
    for advance in advances[1:]:
        last = joined[-1]
        token_ids = last.token_ids + advance.token_ids
        if advance.position == last.position + len(last.token_ids) and len(token_ids) <= MOST_MESSAGE_TOKENS:
            joined[-1] = replace(last, token_ids=token_ids, plan=advance.plan)
        else:
            joined.append(advance)
    return joined


def _end(block: PassingBlock) -> int:
    """Position after a block's last token."""
    return block.position + len(block.token_ids)
