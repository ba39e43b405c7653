"""The report: a folder of plots, and one page that holds them all."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from benchmarks.anatomy import Anatomy

_COLUMNS = 160
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1d2327; }
img { max-width: 100%; }
pre { background: #f5f6f7; padding: 1rem; overflow-x: auto; font-size: 12px; }
"""


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """The figures of one temperature, the run's remarks on them, and the traces of its arms."""

    figures: Mapping[str, Any]
    summary: Sequence[RenderableType]
    anatomies: Mapping[str, Sequence[Anatomy]]


def write_report(document: Mapping[str, Any], runs: Sequence[ReportedRun], label: str, folder: Path) -> Path:
    """Write every plot as PNG, and index.html with all of them inside.

    Args:
        document: the content of the JSON file.
        label: of the environment; the title of every plot.

    Returns:
        The page.
    """
    # Imports matplotlib, which only a report needs.
    from benchmarks.plots import draw_plots

    parts = [f"<h1>sybil bench</h1><p><b>{html.escape(label)}</b></p>"]
    for run in runs:
        temperature = f"{run.figures['temperature']:g}"
        parts.append(f"<h2>Temperature {temperature}</h2>{_as_html(run.summary)}")
        title = f"{label}, temperature {temperature}"
        for name, figure in draw_plots(run.figures["arms"], run.anatomies, title).items():
            path = folder / f"{name}-t{temperature}.png"
            figure.savefig(path, bbox_inches="tight")
            caption, encoded = name.replace("-", " ").capitalize(), base64.b64encode(path.read_bytes()).decode()
            parts.append(f'<h3>{caption}</h3><img src="data:image/png;base64,{encoded}" alt="{caption}">')
    shown = {key: document[key] for key in ("pair", "settings", "machine", "versions")}
    parts.append(f"<h2>Settings</h2><pre>{html.escape(json.dumps(shown, indent=2))}</pre>")
    page = folder / "index.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>sybil bench</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    return page


def _as_html(parts: Sequence[RenderableType]) -> str:
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), highlight=False)
    for part in parts:
        console.print(part)
    return console.export_html(code_format="<pre>{code}</pre>", inline_styles=True)
