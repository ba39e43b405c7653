"""The results of a simulation: tables for people, JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from simulator.check import TOLERANCE, CheckedRun
from simulator.storage import Recording
from simulator.tournament import LOCKSTEPS, OFF, Match
from simulator.trace import Trace


def match_table(match: Match) -> Table:
    """One point at one temperature, a contender a row."""
    players = _match_figures(match)["players"]
    rows = [{"player": name, **figures} for name, figures in players.items()]
    return _table(f"temperature {match.temperature:g}: {match.point}", rows)


def traces_table(recording: Recording) -> Table:
    """Properties of the traces, a temperature a row."""
    temperatures = recording.temperatures()
    return _table(
        "traces", [{"temperature": f"{each:g}", **trace_figures(recording.at(each))} for each in temperatures]
    )


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
    speeds = {name: score.outcome.tokens_per_second for name, score in match.scores.items()}
    best_lockstep = max(speeds[name] for name in LOCKSTEPS)
    players = {
        name: {
            "setting": setting,
            "tokens_per_second": speeds[name],
            "ratio_to_off": speeds[name] / speeds[OFF],
            "ratio_to_best_lockstep": speeds[name] / best_lockstep,
            "tokens_per_pass": outcome.tokens_per_pass,
            "verifier_idle": outcome.verifier_idle,
        }
        for name, (setting, outcome) in match.scores.items()
    }
    return {"temperature": match.temperature, "point": asdict(match.point), "players": players}


def check_table(run: CheckedRun) -> Table:
    """One temperature, an arm a row."""
    rows = [
        {
            "arm": arm.name,
            "tokens/s": f"{arm.measured.decode_tokens_per_second:.1f}",
            "/ off": f"{arm.ratio:.2f}",
            "simulated / off": f"{arm.simulated_ratio:.2f}",
            "difference": f"{arm.difference:+.1%}",
            f"within {TOLERANCE:.0%}": "yes" if arm.agrees else "NO",
            "tokens/pass": f"{arm.measured.tokens_per_pass:.2f}",
            "simulated tokens/pass": f"{arm.simulated.tokens_per_pass:.2f}",
            "pass, draft, trip in ms": f"{arm.point.verify_ms:.1f}, {arm.point.draft_ms:.1f}, {arm.point.rtt_ms:.1f}",
        }
        for arm in run.arms
    ]
    return _table(f"temperature {run.temperature:g}", rows)


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


def _table(title: str, rows: Sequence[Mapping[str, str | float]]) -> Table:
    """The keys of the rows are the headings; the first column says what a row is about."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(rows[0]):
        table.add_column(heading.replace("_", " "), justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*(f"{each:,.2f}" if isinstance(each, float) else str(each) for each in row.values()))
    return table
