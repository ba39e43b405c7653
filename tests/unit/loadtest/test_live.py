"""What a person sees while a load test runs."""

import asyncio
from io import StringIO
from typing import Any, cast

import pytest
from rich.console import Console

from loadtest.level import Level
from loadtest.live import Display
from loadtest.record import Status
from loadtest.segment import Segment
from loadtest.workload import Workload
from sybil_engine.core.types import Speculation

SEGMENT = Segment("", Workload(()), Speculation.AUTO, Level(concurrency=4), 1, "", requests=9)


class CountingCrew:
    """Has sent ten tokens more each time it is asked."""

    def __init__(self) -> None:
        self.tokens = 0

    def totals(self) -> dict[str, int]:
        self.tokens += 10
        counts = {status.value: 0 for status in Status} | {"completed": 3, "refused": 1}
        return {"running": 4, "tokens": self.tokens, "first_tokens": 2, "ttft_ns": 60_000_000, **counts}


def shown(*, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("loadtest.live._REFRESH_S", 0.01)
    written = StringIO()

    async def show() -> None:
        display = Display(Console(file=written, force_terminal=terminal, width=160), segments=7)
        async with display.showing(SEGMENT, cast(Any, CountingCrew())):
            await asyncio.sleep(0.1)

    asyncio.run(show())
    return written.getvalue()


def test_a_terminal_shows_the_figures_of_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(terminal=True, monkeypatch=monkeypatch)
    assert "[1/7] 4 at once, auto, round 2: 0 s, 4 running, " in text
    assert "tokens/s, mean TTFT 30 ms; 3 completed; 1 refused" in text


def test_a_file_is_not_filled_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not shown(terminal=False, monkeypatch=monkeypatch).strip()
