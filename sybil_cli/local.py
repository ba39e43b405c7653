"""The whole engine in this process, for commands that complete a prompt and end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sybil_cli.fleet import check
from sybil_cli.progress import Progress
from sybil_engine.core.completion import Delta
from sybil_engine.core.references import NO_DRAFTER
from sybil_engine.core.request import GenerationRequest
from sybil_engine.models.presets import Pair
from sybil_local import LocalEngine


class LocalClient:
    """An engine of this process, as commands see a coordinator."""

    name = "this process"

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def generate(self, request: GenerationRequest, timeout_s: float | None = None) -> AsyncGenerator[Delta, None]:
        """Stream one completion. Nothing else runs, so that its time limit decides nothing."""
        return self._engine.arun(request)


@asynccontextmanager
async def local_engine(pair: Pair, progress: Progress, allow_lossy: Sequence[str] = ()) -> AsyncIterator[LocalClient]:
    """Load the pair for one completion at a time.

    Args:
        allow_lossy: see `LocalEngine`.

    Raises:
        SybilError: a model is missing, or the pair does not match.
    """
    with progress.waiting("the models to load"):
        if not pair.is_embedded:
            await asyncio.to_thread(check, pair)
        draft = None if pair.draft == NO_DRAFTER else pair.draft
        engine = await asyncio.to_thread(
            LocalEngine,
            pair.target,
            draft,
            draft_layers=pair.draft_layers,
            allow_lossy=allow_lossy,
            max_sessions=1,
            traced=False,
        )
    try:
        yield LocalClient(engine)
    finally:
        await asyncio.to_thread(engine.close)
