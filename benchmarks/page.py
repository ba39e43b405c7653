"""The report: a folder of plots, and one page that holds them all."""

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.anatomy import Anatomy

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1d2327; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
pre { background: #f5f6f7; padding: 1rem; overflow-x: auto; }
.label { font-weight: 600; }
"""


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """The figures of one temperature, and the traces of its arms."""

    figures: Mapping[str, Any]
    anatomies: Mapping[str, Sequence[Anatomy]]


def write_report(document: Mapping[str, Any], runs: Sequence[ReportedRun], label: str, folder: Path) -> Path:
    """Write every plot as PNG, and index.html with all of them inside.

    Args:
        document: what the JSON file says.
        label: of the environment; stands above every plot.

    Returns:
        The page.
    """
    parts = [_heading(document, label)]
    for run in runs:
        temperature = f"{run.figures['temperature']:g}"
        parts.append(f"<h2>Temperature {temperature}</h2>{_table(run.figures['arms'])}")
        for caption, path in _plots(run, f"{label}, temperature {temperature}", folder, temperature):
            title = html.escape(caption)
            encoded = base64.b64encode(path.read_bytes()).decode()
            parts.append(f'<h3>{title}</h3><img src="data:image/png;base64,{encoded}" alt="{title}">')
        parts.append(f"<h3>Ratios of speeds</h3>{_ratios(run.figures['ratios'], list(run.figures['arms']))}")
    shown = {key: document[key] for key in ("pair", "settings", "machine", "versions") if key in document}
    parts.append(f"<h2>Settings</h2><pre>{html.escape(json.dumps(shown, indent=2))}</pre>")
    page = folder / "index.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>sybil bench</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    return page


def _plots(run: ReportedRun, title: str, folder: Path, temperature: str) -> list[tuple[str, Path]]:
    # matplotlib, which only a report needs.
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
    for name, each in anatomies.items():
        if each and each[0].trace.blocks and each[0].passes:
            plots.timeline(each[0], f"{name}: {title}", path(f"timeline-{name}"))
            drawn.append((f"Timeline of a session: {name}", path(f"timeline-{name}")))
    return drawn


def _heading(document: Mapping[str, Any], label: str) -> str:
    pair = document["pair"]
    return (
        f'<h1>sybil bench</h1><p class="label">{html.escape(label)}</p>'
        f"<p>{html.escape(pair['target']['model'])} ({pair['target']['parameters'] / 1e6:.0f}M parameters), drafts by "
        f"{html.escape(pair['draft']['model'] if pair['draft'] else 'nobody')}; "
        f"{html.escape(str(document['machine']['processor']))}, {document['machine']['usable_cores']} cores.</p>"
    )


def _table(arms: Mapping[str, Any]) -> str:
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "tokens/s": lambda arm: "{median:.1f} [{low:.1f}, {high:.1f}]".format(**arm["tokens_per_second"]),
        "acceptance": lambda arm: _number(arm["acceptance_rate"], ".2f"),
        "tokens/pass": lambda arm: _number(arm["tokens_per_pass"], ".2f"),
        "verifier idle": lambda arm: _number(arm["verifier_idle"], ".1%"),
        "gap between passes, ms": lambda arm: _number(arm["gap_between_passes_ns"], ".2f", 1e6),
    }
    rows = [["arm", *columns]]
    rows += [[name, *(column(arm) for column in columns.values())] for name, arm in arms.items()]
    return _html_table(rows)


def _ratios(ratios: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = [["row / column", *names]]
    for one in names:
        cells = []
        for other in names:
            ratio = ratios.get(f"{one}/{other}")
            cells.append("{median:.2f} [{low:.2f}, {high:.2f}]".format(**ratio) if ratio else "")
        rows.append([one, *cells])
    return _html_table(rows)


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    written = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    for row in body:
        written += "</tr><tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
    return f"<table><tr>{written}</tr></table>"


def _number(value: float | None, spec: str, unit: float = 1.0) -> str:
    return "" if value is None else format(value / unit, spec)
