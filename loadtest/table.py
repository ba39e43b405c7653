"""The table of a load test, and the remarks under it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.crew import BUSY_LIMIT
from loadtest.record import Status
from loadtest.rows import Row
from reporting.intervals import interval_text

Column = Callable[[Row], str]
"""What a column shows of a row; empty where it has nothing."""


def summary(document: Mapping[str, Any]) -> list[RenderableType]:
    """The tables and the remarks, in the order in which they are shown.

    Args:
        document: the content of the JSON file.
    """
    rows = document["rows"]
    columns = {
        "Throughput": _THROUGHPUT,
        "Speed-up, with 95 % intervals": _ratios(rows),
        "Requests": _REQUESTS,
        "Latency, ms": _LATENCY,
    }
    tables = [_table(title, rows, each) for title, each in columns.items() if _filled(each, rows)]
    return [*tables, *(Text(line) for line in remarks(document))]


def remarks(document: Mapping[str, Any]) -> list[str]:
    """What a reader should know besides the table."""
    compared, rows = document["agreement"], document["rows"]
    busiest = max((row["client_busy"] for row in rows), default=0.0)
    processes = max((row["client_processes"] for row in rows), default=1)
    lines = [
        "TTFT, TPOT, ITL: of completed requests, in ms; docs/loadtest.md says what each figure is",
        *([f"good: completed within {document['slo']}"] if document["slo"] else []),
        _exactness(compared),
        *(f"  differs: {example}" for example in compared["examples"]),
        f"The client ran in {processes} {'process' if processes == 1 else 'processes'}; the busiest used "
        f"{busiest:.0%} of a core: {_limit(busiest)}.",
    ]
    return [*lines, *_empty(rows), *_errors(rows), *([document["cut_short"]] if document["cut_short"] else [])]


def _exactness(compared: Mapping[str, Any]) -> str:
    tokens, differing = compared["compared_tokens"], compared["differing_tokens"]
    if not tokens:
        return "How exact: no tokens of two arms were compared."
    return f"How exact: {tokens:,} tokens compared between the arms, {differing:,} differences."


def _limit(busiest: float) -> str:
    """Whether the figures tell of the server, or of the client's own Python."""
    if busiest > BUSY_LIMIT:
        return "it may have limited the load; give more with --processes, on a machine of its own"
    return "it did not limit the load"


def _empty(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['arm']}, {row['level']}: nothing was measured, no request was due after the ramp; send for longer"
        for row in rows
        if not row["requests"]
    ]


def _errors(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['arm']}, {row['level']}: {count} x {error}" for row in rows for error, count in row["errors"].items()
    ]


def _filled(columns: Mapping[str, Column], rows: Sequence[Row]) -> list[str]:
    """Names of the columns that show something in some row."""
    return [name for name, column in columns.items() if any(map(column, rows))]


def _table(title: str, rows: Sequence[Row], columns: Mapping[str, Column]) -> Table:
    """One row an arm and level, with the columns that show something."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    shown = _filled(columns, rows)
    for name in ("load", "arm"):
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["level"], row["arm"], *(columns[name](row) for name in shown))
    return table


def _ratios(rows: Sequence[Row]) -> dict[str, Column]:
    """Ratios that are 1 in every row are left out."""
    first, lowest = (rows[0]["arm"], rows[0]["level"]) if rows else ("", "")
    columns: dict[str, Column] = {"x best fixed arm": _best_fixed}
    if any(row["level"] != lowest for row in rows):
        columns = {f"x {lowest}": lambda row: _ratio(row["ratio_to_lowest_level"]), **columns}
    if any(row["arm"] != first for row in rows):
        columns = {f"x {first}": lambda row: _ratio(row["ratio_to_first_arm"]), **columns}
    return columns


def _best_fixed(row: Row) -> str:
    ratio = _ratio(row["ratio_to_best_fixed_arm"])
    return f"{ratio} of {row['best_fixed_arm']}" if ratio else ""


def _ratio(ratio: Mapping[str, float] | None) -> str:
    """With its interval, if there was more than one round."""
    if ratio is None:
        return ""
    return interval_text(ratio) if ratio["low"] < ratio["high"] else f"{ratio['median']:.2f}"


def _number(name: str, spec: str) -> Column:
    return lambda row: "" if row[name] is None else format(row[name], spec)


def _latency(name: str, part: str) -> Column:
    return lambda row: format(row[name][part], ".1f" if row[name][part] < 100 else ".0f") if row[name] else ""


def _counter(status: Status) -> Column:
    return lambda row: str(row[status.value] or "")


_THROUGHPUT: dict[str, Column] = {
    "tokens/s": _number("tokens_per_second", ".1f"),
    "requests/s": _number("requests_per_second", ".2f"),
    "good/s": _number("goodput", ".2f"),
    "good": _number("good_share", ".0%"),
    "acceptance": _number("acceptance_rate", ".2f"),
    "tokens/pass": _number("tokens_per_pass", ".2f"),
}
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
