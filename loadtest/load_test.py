"""A whole load test: asks the server, sends the load, reports."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from loadtest.agreement import Agreement
from loadtest.crew import running_crew
from loadtest.live import Display
from loadtest.measured import MeasuredSegment
from loadtest.rows import rows
from loadtest.settings import LoadtestSettings
from loadtest.table import summary
from loadtest.target import fitted, served_at
from sybil_engine.client import Served


async def load_test(settings: LoadtestSettings, output: Console, progress: Console) -> bool:
    """Measure, print the table, and write what the settings name.

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
    async with running_crew(settings.processes) as crew:
        for segment in segments:
            async with display.showing(segment, crew):
                measured.append(MeasuredSegment.of(*await crew.send(segment)))
            display.done(measured[-1])
            if measured[-1].lost:
                break
    document = _document(settings, served, measured, len(segments))
    for part in summary(document):
        output.print(part, soft_wrap=isinstance(part, Text))
    _write(settings, document, measured, output)
    return not document["lost"] and not document["agreement"]["differing_tokens"]


def _document(
    settings: LoadtestSettings, served: Served, measured: Sequence[MeasuredSegment], segments: int
) -> dict[str, Any]:
    """What the JSON file says."""
    last = measured[-1]
    lost = (
        f"The server at {settings.address} was lost in part {len(measured)} of {segments} ({last.segment}): "
        "this is what was measured until then."
        if last.lost
        else ""
    )
    return {
        "address": settings.address,
        "target": served.target.model_id,
        "draft": served.draft.model_id if served.draft else None,
        "settings": settings.model_dump(by_alias=True),
        "rows": rows(measured, settings.limits()),
        "slo": str(settings.limits() or ""),
        "agreement": asdict(Agreement.of(measured)),
        "lost": lost,
    }


def _write(
    settings: LoadtestSettings, document: dict[str, Any], measured: Sequence[MeasuredSegment], output: Console
) -> None:
    if settings.json_file:
        Path(settings.json_file).write_text(json.dumps(document, indent=2) + "\n")
    if settings.report:
        # Imports matplotlib, which only a report needs.
        from loadtest.page import write_page

        page = write_page(document, measured, Path(settings.report))
        output.print(Text(f"Wrote {page}"), soft_wrap=True)
