"""A whole load test: asks the server, sends the load, reports."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from loadtest.agreement import Agreement
from loadtest.crew import Crew, running_crew
from loadtest.live import Display
from loadtest.measured import MeasuredSegment
from loadtest.rows import rows
from loadtest.segment import Segment
from loadtest.settings import LoadtestSettings
from loadtest.table import summary
from loadtest.target import fitted, served_at
from sybil_engine.client import Served
from sybil_engine.core.errors import SybilError


async def load_test(settings: LoadtestSettings, output: Console, progress: Console) -> bool:
    """Measure, print the table, and write what the settings name.

    What was measured is also reported when the test is cancelled or fails half-way.

    Args:
        settings: checked.
        output: for the table.
        progress: for what happens meanwhile.

    Returns:
        Whether the server stayed and every arm gave the same tokens.

    Raises:
        InvalidSettings: the address or the lengths cannot be used.
        SybilError: the server is not ready, or a client process ended.
    """
    served = await served_at(settings.address)
    workload = await fitted(settings.workload(), settings.address, served)
    segments = list(settings.segments(workload))
    display = Display(progress, len(segments))
    measured: list[MeasuredSegment] = []
    try:
        async with running_crew(settings.processes) as crew:
            await _measure(segments, crew, display, measured)
    except (asyncio.CancelledError, SybilError) as error:
        if measured:
            how = "failed" if isinstance(error, SybilError) else "was stopped"
            cut_short = f"The test {how} in part {len(measured) + 1} of {len(segments)}"
            _report(_document(settings, served, measured, cut_short), settings, measured, output)
        raise
    last = measured[-1]
    cut_short = f"The server at {settings.address} was lost in part {len(measured)} of {len(segments)} ({last.segment})"
    document = _document(settings, served, measured, cut_short if last.lost else "")
    _report(document, settings, measured, output)
    return not last.lost and not document["agreement"]["differing_tokens"]


async def _measure(segments: Sequence[Segment], crew: Crew, display: Display, measured: list[MeasuredSegment]) -> None:
    """Send one segment after another, and add what comes of it, until the server is lost."""
    for segment in segments:
        async with display.showing(segment, crew):
            measured.append(MeasuredSegment.of(*await crew.send(segment)))
        display.done(measured[-1])
        if measured[-1].lost:
            break


def _document(
    settings: LoadtestSettings, served: Served, measured: Sequence[MeasuredSegment], cut_short: str
) -> dict[str, Any]:
    """What the JSON file says.

    Args:
        cut_short: why not all was measured; empty: all was.
    """
    return {
        "address": settings.address,
        "target": served.target.model_id,
        "draft": served.draft.model_id if served.draft else None,
        "settings": settings.model_dump(by_alias=True),
        "rows": rows(measured, settings.limits()),
        "slo": str(settings.limits() or ""),
        "agreement": asdict(Agreement.of(measured)),
        "cut_short": f"{cut_short}: this is what was measured until then." if cut_short else "",
    }


def _report(
    document: dict[str, Any], settings: LoadtestSettings, measured: Sequence[MeasuredSegment], output: Console
) -> None:
    for part in summary(document):
        output.print(part, soft_wrap=isinstance(part, Text))
    if settings.json_file:
        Path(settings.json_file).write_text(json.dumps(document, indent=2) + "\n")
    if settings.report:
        # Imports matplotlib, which only a report needs.
        from loadtest.page import write_page

        page = write_page(document, measured, Path(settings.report))
        output.print(Text(f"Wrote {page}"), soft_wrap=True)
