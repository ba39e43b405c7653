"""`sybil quality`: what each judge costs in quality, and what it gains in speed."""

import os
import sys
from pathlib import Path

from rich.console import Console

from quality.settings import QualitySettings
from reporting.outputs import check_file, check_report_folder
from sybil_cli.exits import FAILURE, SUCCESS
from sybil_cli.options import forwarding
from sybil_cli.progress import Progress
from sybil_engine import settings

_FILE_COLUMNS = 160


@forwarding("quality")
def quality(argv: tuple[str, ...]) -> int:
    """Measure speed against quality for every judge: docs/quality.md says how to read what it prints."""
    chosen = settings.parse(QualitySettings, argv, os.environ, "sybil quality")
    if chosen.json_file:
        check_file(Path(chosen.json_file), "--json")
    if chosen.report:
        check_report_folder(Path(chosen.report), "--report")
    # Imports torch, which bad settings do not need.
    from quality.run import is_exact, measure, write

    output = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    document = measure(chosen, Progress().say)
    if chosen.json_file:
        write(document, Path(chosen.json_file))
    from quality.show import table, write_report

    for run in document["runs"]:
        output.print(table(run))
    if chosen.report:
        output.print(f"Report: {write_report(document, Path(chosen.report))}")
    if not is_exact(document):
        output.print("The exact judge's tokens differ from those of the target alone: this must not happen. Report it.")
        return FAILURE
    output.print("The exact judge lost nothing: every token is the target's own.")
    return SUCCESS
