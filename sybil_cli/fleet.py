"""A fleet of this command's own: drafter, verifier and coordinator on this machine, under Ray."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from coordinator.pairing import check_pair
from coordinator.ray.fleet import running_fleet
from coordinator.ray.supervisor import Supervisor
from coordinator.settings import PlaceSettings
from sybil_cli.progress import Progress
from sybil_cli.running import take_sigterm_back
from sybil_engine.models.presets import Pair


@asynccontextmanager
async def placed_fleet(settings: PlaceSettings, progress: Progress) -> AsyncIterator[Supervisor]:
    """Start the fleet that the settings describe; leaving the block stops it.

    Raises:
        SybilError: a model is missing, the pair does not match, or the fleet does not come up.
    """

    def report(waiting: str) -> None:
        take_sigterm_back()
        progress.say(waiting)

    pair = Pair(settings.target, settings.draft, settings.draft_layers)
    async with AsyncExitStack() as stack:
        with progress.waiting("the fleet"):
            if not pair.is_embedded:
                progress.say("checking that target and draft models belong together")
                await asyncio.to_thread(check, pair)
            fleet = await stack.enter_async_context(running_fleet(settings, report))
        take_sigterm_back()
        yield fleet


def check(pair: Pair) -> None:
    """Refuse models that cannot be served together, before any weights are loaded."""
    target, draft = pair.described()
    if draft:
        check_pair(target, draft)
