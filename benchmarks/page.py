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
.label { font-weight: 600; }
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
    parts = [_heading(document, label)]
    for run in runs:
        temperature = f"{run.figures['temperature']:g}"
        parts.append(f"<h2>Temperature {temperature}</h2>{_as_html(run.summary)}")
        for caption, path in _plots(run, f"{label}, temperature {temperature}", folder, temperature):
            title = html.escape(caption)
            encoded = base64.b64encode(path.read_bytes()).decode()
            parts.append(f'<h3>{title}</h3><img src="data:image/png;base64,{encoded}" alt="{title}">')
    shown = {key: document[key] for key in ("pair", "settings", "machine", "versions")}
    parts.append(f"<h2>Settings</h2><pre>{html.escape(json.dumps(shown, indent=2))}</pre>")
    page = folder / "index.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>sybil bench</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    return page


def _heading(document: Mapping[str, Any], label: str) -> str:
    pair = document["pair"]
    return (
        f'<h1>sybil bench</h1><p class="label">{html.escape(label)}</p>'
        f"<p>{html.escape(pair['target']['model'])} ({pair['target']['parameters'] / 1e6:.0f}M parameters), drafts by "
        f"{html.escape(pair['draft']['model'] if pair['draft'] else 'nobody')}; "
        f"{html.escape(str(document['machine']['processor']))}, {document['machine']['usable_cores']} cores.</p>"
    )


def _as_html(parts: Sequence[RenderableType]) -> str:
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), highlight=False)
    for part in parts:
        console.print(part)
    return console.export_html(code_format="<pre>{code}</pre>", inline_styles=True)


def _plots(run: ReportedRun, title: str, folder: Path, temperature: str) -> list[tuple[str, Path]]:
    # Imports matplotlib, which only a report needs.
    from benchmarks import plots

    def path(name: str) -> Path:
        return folder / f"{name}-t{temperature}.png"

    arms, anatomies = run.figures["arms"], run.anatomies
    plots.throughput(arms, title, path("throughput"))
    plots.tokens_per_pass(arms, title, path("tokens-per-pass"))
    plots.acceptance(anatomies, title, path("acceptance"))
    plots.pass_time(anatomies, title, path("pass-time"))
    drawn = [
        ("Throughput", path("throughput")),
        ("Tokens per pass", path("tokens-per-pass")),
        ("Acceptance by position in the window, in traced sessions", path("acceptance")),
        ("Where a pass's time goes, in traced sessions", path("pass-time")),
    ]
    for name, (first, *_) in anatomies.items():
        if first.drafted and first.passes:
            plots.timeline(first, f"{name}: {title}", path(f"timeline-{name}"))
            drawn.append((f"Timeline of a session: {name}", path(f"timeline-{name}")))
    return drawn
