"""The page of a report: tables and plots in one file, which needs nothing beside it."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console, RenderableType

_COLUMNS = 160
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1d2327; }
img { max-width: 100%; }
pre { background: #f5f6f7; padding: 1rem; overflow-x: auto; font-size: 12px; }
"""


class ReportPage:
    """Collects the parts of a report, then writes them into a folder; each plot is a PNG of its own as well.

    Args:
        command: whose report it is.
        subject: what was measured.
    """

    def __init__(self, command: str, subject: str, folder: Path) -> None:
        self._command, self._folder = command, folder
        self._parts = [f"<h1>{html.escape(command)}</h1><p><b>{html.escape(subject)}</b></p>"]

    def add_heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def add_tables(self, parts: Iterable[RenderableType]) -> None:
        """Show what a terminal would show."""
        console = Console(record=True, width=_COLUMNS, file=io.StringIO(), highlight=False)
        for part in parts:
            console.print(part)
        self._parts.append(console.export_html(code_format="<pre>{code}</pre>", inline_styles=True))

    def add_plot(self, title: str, file_name: str, figure: Figure) -> None:
        """Write the plot, and show it under a heading."""
        path = self._folder / file_name
        figure.savefig(path, bbox_inches="tight")
        encoded, caption = base64.b64encode(path.read_bytes()).decode(), html.escape(title)
        self._parts.append(f'<h3>{caption}</h3><img src="data:image/png;base64,{encoded}" alt="{caption}">')

    def add_values(self, title: str, values: Mapping[str, Any]) -> None:
        """Show values as JSON."""
        self.add_heading(title)
        self._parts.append(f"<pre>{html.escape(json.dumps(values, indent=2))}</pre>")

    def write(self) -> Path:
        """Write index.html; returns its path."""
        page = self._folder / "index.html"
        page.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self._command)}</title>'
            f"<style>{_STYLE}</style><body>{''.join(self._parts)}</body></html>\n"
        )
        return page
