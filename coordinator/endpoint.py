"""One drafter or verifier: what it hosts, whether it serves, and how many of its sessions are ours."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Generic, Protocol, TypeVar

from sybil_engine.core.errors import Exhausted, ModelError, PairMismatch, SessionLost, SybilError
from sybil_engine.core.types import ModelDescription

logger = logging.getLogger(__name__)

StreamType_co = TypeVar("StreamType_co", covariant=True)
StreamType = TypeVar("StreamType")

# An endpoint that broke or refused a session is chosen only if there is no other, for this long.
_AVOID_S = 2.0
_CHECK_S = 0.2


class ServiceClient(Protocol[StreamType_co]):
    """What an endpoint needs of a service's client."""

    address: str

    async def describe(self) -> ModelDescription:
        """What the service hosts."""

    def serving(self) -> AsyncGenerator[bool, None]:
        """Whether it serves, now and at each change."""

    def session(self) -> AbstractContextManager[StreamType_co]:
        """A stream, ended when the block is left."""

    async def close(self) -> None:
        """Close the connection."""


class Endpoint(Generic[StreamType]):
    """A service, watched while it is in the routing table.

    Attributes:
        description: what it hosts; None until it answered and was accepted.
        live: whether it serves, and fits the other services.
        trouble: why it is not live, in words.
        mismatch: why it does not fit the other services; None if it does, or if that is not known.
        sessions: how many of its sessions are ours.
    """

    def __init__(
        self,
        client: ServiceClient[StreamType],
        accept: Callable[[ModelDescription], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """
        Args:
            accept: raises when what the service hosts does not fit the other services.
            changed: called after `live` or `slots` may have changed.
        """
        self.client = client
        self.description: ModelDescription | None = None
        self.live = False
        self.trouble = "not answering yet"
        self.mismatch: SybilError | None = None
        self.sessions = 0
        self._accept = accept
        self._changed = changed
        self._avoided_until_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._watch = asyncio.create_task(self._keep_watching())

    @property
    def address(self) -> str:
        return self.client.address

    @property
    def slots(self) -> int:
        """How many sessions it can hold at the same time."""
        return self.description.max_sessions if self.description else 0

    @property
    def avoided(self) -> bool:
        """Whether it broke or refused a session within the last seconds."""
        return time.monotonic() < self._avoided_until_s

    @contextmanager
    def session(self) -> Iterator[StreamType]:
        """A stream for one session, ended when the block is left."""
        self.sessions += 1
        self._idle.clear()
        try:
            with self.client.session() as stream:
                yield stream
        except (SessionLost, Exhausted) as error:
            self._avoided_until_s = time.monotonic() + _AVOID_S
            if isinstance(error, SessionLost):
                self.check_again(str(error))
            raise
        finally:
            self.sessions -= 1
            if not self.sessions:
                self._idle.set()

    def check_again(self, trouble: str) -> None:
        """Stop using the service until it has described itself again and reports SERVING."""
        self._set_live(False, trouble)
        self._watch.cancel()
        self._watch = asyncio.create_task(self._keep_watching())

    async def close(self) -> None:
        """Stop watching. The connection stays open while sessions use it."""
        await self._stop_watching()
        await self._idle.wait()
        # A session that was lost meanwhile has started the watch again.
        await self._stop_watching()
        await self.client.close()

    async def _stop_watching(self) -> None:
        self._watch.cancel()
        await asyncio.wait((self._watch,))

    async def _keep_watching(self) -> None:
        while True:
            try:
                await self._follow()
            except (PairMismatch, ModelError) as error:
                if str(error) != str(self.mismatch):
                    logger.error("%s is not used: %s", self.address, error)
                self.mismatch = error
                self._set_live(False, str(error))
            except SybilError as error:
                self._set_live(False, str(error))
            await asyncio.sleep(_CHECK_S)

    async def _follow(self) -> None:
        """Follow the service's health until the connection breaks."""
        async with aclosing(self.client.serving()) as changes:
            async for serving in changes:
                description = await self.client.describe()
                if serving and description.ready:
                    await self._accept(description)
                    self.description, self.mismatch = description, None
                    self._set_live(True)
                else:
                    self._set_live(False, "shutting down" if self.live else f"loading {description.model_id}")
        raise SessionLost(f"{self.address} ended its health watch")

    def _set_live(self, live: bool, trouble: str = "") -> None:
        if self.live and not live:
            logger.warning("%s is gone: %s", self.address, trouble)
        elif live and not self.live and self.description:
            logger.info("%s serves %s", self.address, self.description.model_id)
        self.live = live
        self.trouble = trouble
        self._changed()
