"""A fleet of this command's own: drafter, verifier and coordinator on this machine, under Ray."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from coordinator.ray.fleet import RunningFleet, running_fleet
from coordinator.settings import PlaceSettings
from sybil_engine.cli.pairs import Pair, check_pair
from sybil_engine.cli.progress import Progress
from sybil_engine.cli.running import take_sigterm_back


@asynccontextmanager
async def own_fleet(pair: Pair, progress: Progress) -> AsyncIterator[RunningFleet]:
    """Start a fleet on a free port; leaving the block stops it.

    Raises:
        SybilError: a model is missing, the pair does not match, or the fleet does not come up.
    """
    async with placed_fleet(PlaceSettings(port=0, target=pair.target, draft=pair.draft), progress) as fleet:
        yield fleet


@asynccontextmanager
async def placed_fleet(settings: PlaceSettings, progress: Progress) -> AsyncIterator[RunningFleet]:
    """Start the fleet that the settings describe, once its models are known to belong together."""

    def report(waiting: str) -> None:
        take_sigterm_back()
        progress.say(waiting)

    pair = Pair(settings.target, settings.draft)
    async with AsyncExitStack() as stack:
        with progress.waiting("the fleet"):
            if not pair.is_known:
                progress.say("checking that target and draft models belong together")
                await asyncio.to_thread(check_pair, pair)
            fleet = await stack.enter_async_context(running_fleet(settings, report))
        take_sigterm_back()
        yield fleet
