"""The report of a load test: a folder of plots, and one page that holds them all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.measured import MeasuredSegment
from loadtest.plots import draw_plots
from loadtest.table import summary
from reporting.page import ReportPage


def write_page(document: Mapping[str, Any], measured: Sequence[MeasuredSegment], folder: Path) -> Path:
    """Write every plot as PNG, and index.html with all of them inside.

    Args:
        document: the content of the JSON file.

    Returns:
        The page.
    """
    page = ReportPage("sybil loadtest", f"{document['target']} at {document['address']}", folder)
    page.add_tables(summary(document))
    plots = draw_plots(document["rows"], measured) if document["rows"] else {}
    for title, figure in plots.items():
        page.add_plot(title, f"{title.lower().replace(' ', '-')}.png", figure)
    page.add_values("Settings", document["settings"])
    return page.write()
