"""What happens now, on stderr: live on a terminal, a line a segment elsewhere."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loadtest.crew import Crew
from loadtest.measured import MeasuredSegment
from loadtest.record import Status
from loadtest.segment import Segment

_REFRESH_S = 0.5


class Display:
    """Shows the running segment's current figures."""

    def __init__(self, console: Console, segments: int) -> None:
        self._console, self._segments, self._number = console, segments, 0

    @asynccontextmanager
    async def showing(self, segment: Segment, crew: Crew) -> AsyncIterator[None]:
        """Show a segment while the block runs."""
        self._number += 1
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            task = asyncio.create_task(self._refresh(live, segment, crew))
            try:
                yield
            finally:
                task.cancel()

    def done(self, measured: MeasuredSegment) -> None:
        """Leave a line about a segment that has ended."""
        speed = f"{measured.tokens_per_second:.1f} tokens/s" if measured.segment.timed else "done"
        ended = _counted(Counter(record.status.value for record in measured.records))
        self._console.print(self._line(measured.segment, f"{speed}{ended or '; nothing sent'}"), soft_wrap=True)

    async def _refresh(self, live: Live, segment: Segment, crew: Crew) -> None:
        """Show the speed of the last half second, and everything else since the segment began."""
        began_s = before_s = time.monotonic()
        before = 0
        while self._console.is_terminal:
            await asyncio.sleep(_REFRESH_S)
            now, now_s = crew.totals(), time.monotonic()
            speed, before, before_s = (now["tokens"] - before) / (now_s - before_s), now["tokens"], now_s
            ttft_ms = now["ttft_ns"] / 1e6 / max(1, now["first_tokens"])
            words = (
                f"{now_s - began_s:.0f} s, {now['running']} running, {speed:.1f} tokens/s, mean TTFT {ttft_ms:.0f} ms"
            )
            live.update(self._line(segment, words + _counted(Counter(now))), refresh=True)

    def _line(self, segment: Segment, words: str) -> Text:
        return Text(f"[{self._number}/{self._segments}] {segment}: {words}")


def _counted(counts: Counter[str]) -> str:
    """How many requests ended how."""
    return "".join(f"; {counts[status.value]} {status.value}" for status in Status if counts[status.value])
