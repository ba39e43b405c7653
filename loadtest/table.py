"""The table of a load test, and the remarks under it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.crew import BUSY_LIMIT
from loadtest.figures import Row
from loadtest.record import Status

Column = Callable[[Row], str]
"""What a column shows of a row; empty where it has nothing."""


def summary(document: Mapping[str, Any]) -> list[RenderableType]:
    """The tables and the remarks, in the order in which they are shown.

    Args:
        document: the content of the JSON file.
    """
    rows = document["rows"]
    columns = {"Throughput": _throughput(rows), "Requests": _REQUESTS, "Latency, ms": _LATENCY}
    tables = [_table(title, rows, each) for title, each in columns.items()]
    return [*tables, *(Text(line) for line in remarks(document))]


def remarks(document: Mapping[str, Any]) -> list[str]:
    """What a reader should know besides the table."""
    compared, rows = document["comparison"], document["rows"]
    busiest = max((row["client_busy"] for row in rows), default=0.0)
    processes = max((row["client_processes"] for row in rows), default=1)
    lines = [
        "tokens/s: of the time under full load; TTFT, TPOT, ITL: of completed requests, in ms (docs/loadtest.md)",
        f"How exact: {compared['compared_tokens']:,} tokens compared between the arms, "
        f"{compared['differing_tokens']:,} differences.",
        *(f"  differs: {example}" for example in compared["examples"]),
        f"The client ran in {processes} {'process' if processes == 1 else 'processes'}; the busiest used "
        f"{busiest:.0%} of a core.",
    ]
    if busiest > BUSY_LIMIT:
        lines.append("That may have slowed the load: give more with --processes, on a machine of its own.")
    return [*lines, *_errors(rows), *([document["lost"]] if document["lost"] else [])]


def _errors(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['arm']}, {row['level']}: {count} x {error}" for row in rows for error, count in row["errors"].items()
    ]


def _table(title: str, rows: Sequence[Row], columns: Mapping[str, Column]) -> Table:
    """One row an arm and level; columns that are empty in all rows are left out."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    shown = [name for name in columns if any(columns[name](row) for row in rows)]
    for name in ("load", "arm"):
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["level"], row["arm"], *(columns[name](row) for name in shown))
    return table


def _throughput(rows: Sequence[Row]) -> dict[str, Column]:
    first, lowest = (rows[0]["arm"], rows[0]["level"]) if rows else ("", "")
    return {
        "tokens/s": _number("tokens_per_second", ".1f"),
        f"x {first}": _number("ratio_to_first_arm", ".2f"),
        f"x {lowest}": _number("ratio_to_lowest_level", ".2f"),
        "requests/s": _number("requests_per_second", ".2f"),
        "good/s": _number("goodput", ".2f"),
        "good": _number("good_share", ".0%"),
        "acceptance": _number("acceptance_rate", ".2f"),
        "tokens/pass": _number("tokens_per_pass", ".2f"),
    }


def _number(name: str, spec: str) -> Column:
    return lambda row: "" if row[name] is None else format(row[name], spec)


def _latency(name: str, part: str) -> Column:
    return lambda row: format(row[name][part], ".1f" if row[name][part] < 100 else ".0f") if row[name] else ""


def _counter(status: Status) -> Column:
    return lambda row: str(row[status.value] or "")


_REQUESTS: dict[str, Column] = {
    **{status.value: _counter(status) for status in Status},
    "prompt tokens": _number("prompt_tokens", ".0f"),
    "of these cached": _number("cached_prompt_share", ".0%"),
    "new tokens": _number("completion_tokens", ".0f"),
}
_LATENCY: dict[str, Column] = {
    f"{title} {part}": _latency(name, part)
    for title, name in (
        ("TTFT", "ttft_ms"),
        ("TPOT", "tpot_ms"),
        ("ITL", "itl_ms"),
        ("whole", "e2e_ms"),
        ("queue", "queue_ms"),
        ("refused", "refused_after_ms"),
    )
    for part in ("p50", "p99")
}
