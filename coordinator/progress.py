"""Waiting, with reports of what is being waited for."""

import asyncio
import time
from collections.abc import Callable

from sybil_engine.core.errors import Unavailable

Report = Callable[[str], None]
"""Called with what is being waited for, in words: at once, at each change, and every second."""

_POLL_S = 0.05
_REPORT_S = 1.0


async def until_done(pending: Callable[[], str | None], report: Report, limit_s: float) -> None:
    """Wait until nothing is pending, and report what is pending until then.

    Args:
        pending: returns what is being waited for, None when there is nothing; an error that it raises ends the wait.

    Raises:
        Unavailable: something is still pending after `limit_s`.
    """
    started_s = time.monotonic()
    reported, reported_s = "", 0.0
    while (what := pending()) is not None:
        now_s = time.monotonic()
        if now_s - started_s > limit_s:
            raise Unavailable(f"gave up after {limit_s:g} s of waiting for {what}")
        if what != reported or now_s - reported_s >= _REPORT_S:
            report(f"waiting for {what} ({now_s - started_s:.0f} s)")
            reported, reported_s = what, now_s
        await asyncio.sleep(_POLL_S)
