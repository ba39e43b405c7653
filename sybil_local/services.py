"""Drafter and verifier engines on threads of this process, as the generation core wants its services."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, cast

from coordinator.generation import Target
from coordinator.pairing import check_pair, check_vocabulary, share_processors
from coordinator.pipeline import DrafterStream, PassingBlock, VerifierStream
from coordinator.tokenizer import Tokenizer
from drafter_service.engine import BRANCH_CELLS as DRAFT_BRANCH_CELLS
from drafter_service.engine import Drafter
from drafter_service.session import DrafterSession
from drafter_service.settings import DrafterSettings
from sybil_engine.core.errors import SessionLost, Unavailable
from sybil_engine.core.session import Advance, Commit, SessionOpen
from sybil_engine.core.types import Block, ModelDescription
from sybil_engine.models.hosting import host_model
from sybil_engine.models.loading import describe, tokenizer_json
from sybil_engine.serving.engine_thread import EngineThread
from sybil_engine.serving.sessions import RemoteSession
from verifier_service.loading import load_verifier
from verifier_service.session import VerifierSession
from verifier_service.settings import VerifierSettings


class LocalServices:
    """Both engines, joined by direct calls; implements the generation core's Services."""

    def __init__(self, verifier: VerifierSettings, drafter: DrafterSettings | None) -> None:
        """Load the models, each on the thread that will run its passes.

        Args:
            drafter: None: nobody drafts.

        Raises:
            ModelError, InvalidSettings: a model cannot be served.
            PairMismatch: the models do not belong together.
        """
        self._threads: list[EngineThread[Any]] = []
        try:
            if drafter:
                # Known before weights are loaded.
                draft = drafter.choice
                described = describe(draft.ref, dtype=draft.dtype, layers=draft.layers)
                check_pair(describe(verifier.model, dtype=verifier.dtype), described)
            # One after the other: while transformers loads a model, torch's defaults are another's.
            # No other process waits for a core here while the drafter rests.
            alone_threads = verifier.alone_threads or (0 if verifier.threads else len(os.sched_getaffinity(0)))
            alone = verifier.model_copy(update={"alone_threads": alone_threads})
            verifying = self._start("verifier", lambda: load_verifier(alone))
            description = replace(verifying.result().description, ready=True)
            drafting = self._start("drafter", lambda: _load_drafter(drafter)) if drafter else None
            self.target = Target(description, Tokenizer(tokenizer_json(verifier.model)))
            check_vocabulary(description, self.target.tokenizer.size)
            self.draft = self._checked(drafting.result().description) if drafting else None
        except BaseException:
            self.close()
            raise

    @property
    def shares_processors(self) -> bool:
        """See `Services`."""
        return self.draft is not None and share_processors(self.target.description, self.draft)

    @contextmanager
    def verifier(self, target: Target) -> Iterator[VerifierStream]:
        """See `Services`."""
        with closing(RemoteSession(self._threads[0])) as session:
            yield LocalVerifierStream(session)

    @property
    def proposers(self) -> tuple[str, ...]:
        """See `Services`."""
        return self.target.description.proposers + (self.draft.proposers if self.draft else ())

    @property
    def drafters(self) -> int:
        """See `Services`."""
        return int(self.draft is not None)

    @contextmanager
    def drafter(self, taken: Collection[str]) -> Iterator[DrafterStream]:
        """See `Services`."""
        if self.draft is None or taken:
            raise Unavailable("this engine has no further draft model" if taken else "this engine has no draft model")
        with closing(RemoteSession(self._threads[1])) as session:
            yield LocalDrafterStream(session)

    def close(self) -> None:
        """End both threads; what they hold is freed with them."""
        for thread in self._threads:
            thread.stop()

    def _start(self, name: str, load: Callable[[], Any]) -> "Future[Any]":
        thread: EngineThread[Any] = EngineThread(load, name)
        self._threads.append(thread)
        return thread.start()

    def _checked(self, draft: ModelDescription) -> ModelDescription:
        check_vocabulary(draft, self.target.tokenizer.size)
        return replace(draft, ready=True)


def _load_drafter(settings: DrafterSettings) -> Drafter:
    return Drafter(*host_model(settings, DRAFT_BRANCH_CELLS), settings.prefill_share)


class LocalVerifierStream:
    """Implements the pipeline's VerifierStream."""

    def __init__(self, session: "RemoteSession[VerifierSession, Commit]") -> None:
        self._session = session
        self._send: Callable[[Sequence[Block]], Awaitable[None]] = session.sender(_offer, _tokens)

    async def open(self, opening: SessionOpen) -> None:
        await self._session.open(opening)

    async def offer(self, blocks: Sequence[PassingBlock]) -> None:
        await self._send(cast(Sequence[Block], blocks))

    async def commits(self) -> AsyncIterator[Commit]:
        with _losing():
            async for commits in self._session.events():
                for commit in commits:
                    yield commit


class LocalDrafterStream:
    """Implements the pipeline's DrafterStream."""

    address = "local"

    def __init__(self, session: "RemoteSession[DrafterSession, tuple[Block, ...]]") -> None:
        self._session = session
        self._send: Callable[[Advance], Awaitable[None]] = session.sender(
            _advance, lambda advance: len(advance.token_ids)
        )

    async def open(self, opening: SessionOpen) -> None:
        await self._session.open(opening)

    async def advance(self, advances: Sequence[Advance]) -> None:
        for advance in advances:
            await self._send(advance)

    async def blocks(self) -> AsyncIterator[Sequence[PassingBlock]]:
        with _losing():
            async for pushes in self._session.events():
                for blocks in pushes:
                    yield blocks


@contextmanager
def _losing() -> Iterator[None]:
    """Turn an engine's failure into a lost session, as services' clients do: after a few, nobody tries again."""
    try:
        yield
    except Unavailable as error:
        raise SessionLost(str(error)) from error


def _tokens(blocks: Sequence[Block]) -> int:
    return sum(len(block.token_ids) for block in blocks)


def _offer(session: VerifierSession, blocks: Sequence[Block], arrived_ns: int) -> None:
    for block in blocks:
        session.offer(block, arrived_ns)


def _advance(session: DrafterSession, advance: Advance, arrived_ns: int) -> None:
    session.advance(advance)
