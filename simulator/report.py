"""The results of a simulation: tables for people, JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from simulator.check import TOLERANCE, CheckedRun
from simulator.storage import Recording
from simulator.tournament import Match
from simulator.trace import Trace


def table_of(title: str, subject: str, figures: Sequence[str]) -> Table:
    """A table without rows: a column for the subject, then the figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False)
    table.add_column(subject, no_wrap=True)
    for heading in figures:
        table.add_column(heading, justify="right")
    return table


def match_table(match: Match) -> Table:
    """One point at one temperature, a contender a row."""
    headings = ("/ off", "/ lockstep", "tokens/pass", "idle")
    table = table_of(f"temperature {match.temperature:g}: {match.point}", "player", headings)
    table.add_column("best setting", overflow="fold")
    players = _match_figures(match)["players"]
    best = max(figures["tokens_per_second"] for figures in players.values())
    for name, figures in players.items():
        table.add_row(
            name,
            f"{figures['ratio_to_off']:.2f}",
            f"{figures['ratio_to_best_lockstep']:.2f}",
            f"{figures['tokens_per_pass']:.2f}",
            f"{figures['verifier_idle']:.0%}",
            figures["setting"],
            style="bold" if figures["tokens_per_second"] == best else None,
        )
    return table


def traces_table(recording: Recording) -> Table:
    """Properties of the traces, a column for each temperature."""
    table = Table("temperature", box=None, header_style="bold", pad_edge=False)
    columns = []
    for temperature in recording.temperatures():
        table.add_column(f"{temperature:g}", justify="right")
        columns.append(trace_figures(recording.at(temperature)))
    for name in columns[0]:
        values = [column[name] for column in columns]
        cells = (f"{value:,}" if isinstance(value, int) else f"{value:.2f}" for value in values)
        table.add_row(name.replace("_", " "), *cells)
    return table


def trace_figures(traces: Sequence[Trace]) -> dict[str, float]:
    """Rates of the traces of one temperature."""
    tokens = sum(map(len, traces))
    ranks = [rank for trace in traces for rank in trace.shared_ranks]
    corrections = [rank for rank in ranks if rank]

    def mean(name: str) -> float:
        return sum(float(getattr(trace, name).sum()) for trace in traces) / tokens

    return {
        "completions": len(traces),
        "tokens": tokens,
        "acceptance_rate_shared_noise": ranks.count(0) / tokens,
        "acceptance_rate_ratio_test": mean("accepted"),
        "bonus_guessed_ratio_test": mean("bonus_matched"),
        "correction_is_second_guess": corrections.count(1) / max(1, len(corrections)),
        "correction_is_second_to_fourth_guess": sum(rank <= 3 for rank in corrections) / max(1, len(corrections)),
    }


def figures(recording: Recording, matches: Sequence[Match], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure."""
    return {
        "settings": dict(settings),
        "recorded": dict(recording.about),
        "traces": {f"{each:g}": trace_figures(recording.at(each)) for each in recording.temperatures()},
        "matches": [_match_figures(match) for match in matches],
    }


def _match_figures(match: Match) -> dict[str, Any]:
    players = {}
    for name, (setting, outcome) in match.scores.items():
        players[name] = {
            "setting": setting,
            "tokens_per_second": outcome.tokens_per_second,
            "ratio_to_off": outcome.tokens_per_second / match.off,
            "ratio_to_best_lockstep": outcome.tokens_per_second / match.best_lockstep,
            "tokens_per_pass": outcome.tokens_per_pass,
            "verifier_idle": outcome.verifier_idle,
        }
    return {"temperature": match.temperature, "point": asdict(match.point), "players": players}


def check_table(run: CheckedRun) -> Table:
    """One temperature, an arm a row."""
    figures = ("tokens/s", "/ off", "simulated", "difference", f"within {TOLERANCE:.0%}")
    passes = ("tokens/pass", "simulated", "pass, draft, trip in ms")
    table = table_of(f"temperature {run.temperature:g}", "arm", (*figures, *passes))
    for arm in run.arms:
        point = arm.point
        table.add_row(
            arm.name,
            f"{arm.measured.decode_tokens_per_second:.1f}",
            f"{arm.ratio:.2f}",
            f"{arm.simulated_ratio:.2f}",
            f"{arm.difference:+.1%}",
            "yes" if arm.agrees else "NO",
            f"{arm.measured.tokens_per_pass:.2f}",
            f"{arm.simulated.tokens_per_pass:.2f}",
            f"{point.verify_ms:.1f}, {point.draft_ms:.1f}, {point.rtt_ms:.1f}",
        )
    return table


def remarks_on(runs: Sequence[CheckedRun]) -> list[str]:
    """What a reader should know beside the tables, in sentences; the last one counts the arms that agree."""
    arms = [arm for run in runs for arm in run.arms]
    return [
        "Speed of decoding, without prompts and first passes; / off: as a multiple of plain decoding, measured and "
        "simulated. The difference of off is that of its tokens/s, that of other arms the multiple's.",
        *(
            f"temperature {run.temperature:g}: {run.left_out} of {run.left_out + run.compared} completions are left "
            "out, their text is not the recorded one"
            for run in runs
            if run.left_out
        ),
        f"Within {TOLERANCE:.0%} of what was measured: {sum(arm.agrees for arm in arms)} of {len(arms)}.",
    ]


def check_figures(runs: Sequence[CheckedRun], about: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure, after what was compared."""
    checks = []
    for run in runs:
        arms = {arm.name: asdict(arm) | {"difference": arm.difference, "agrees": arm.agrees} for arm in run.arms}
        checks.append({**asdict(run), "arms": arms})
    return {**about, "tolerance": TOLERANCE, "checks": checks}
