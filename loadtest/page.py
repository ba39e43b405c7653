"""The report: a folder of plots, and one page that holds them all."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.figures import MeasuredSegment
from loadtest.plots import draw_plots
from loadtest.table import summary

_COLUMNS = 160
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1d2327; }
img { max-width: 100%; }
pre { background: #f5f6f7; padding: 1rem; overflow-x: auto; font-size: 12px; }
"""


def write_page(document: Mapping[str, Any], measured: Sequence[MeasuredSegment], folder: Path) -> Path:
    """Write every plot as PNG, and index.html with all of them inside.

    Args:
        document: the content of the JSON file.

    Returns:
        The page.
    """
    title = f"{document['target']} at {document['address']}"
    parts = [f"<h1>sybil loadtest</h1><p><b>{html.escape(title)}</b></p>", _tables(document)]
    plots = draw_plots(document["rows"], measured) if document["rows"] else {}
    for name, figure in plots.items():
        path = folder / f"{name.lower().replace(' ', '-')}.png"
        figure.savefig(path)
        encoded = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<h2>{name}</h2><img src="data:image/png;base64,{encoded}" alt="{name}">')
    parts.append(f"<h2>Settings</h2><pre>{html.escape(json.dumps(document['settings'], indent=2))}</pre>")
    page = folder / "index.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>sybil loadtest</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    return page


def _tables(document: Mapping[str, Any]) -> str:
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), highlight=False)
    for part in summary(document):
        console.print(part)
    return console.export_html(code_format="<pre>{code}</pre>", inline_styles=True)
