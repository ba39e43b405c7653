"""The results of a check against the engine: a table for people, JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from simulator.check import TOLERANCE, CheckedArm, CheckedRun
from simulator.report import table_of


def check_table(run: CheckedRun) -> Table:
    """One temperature, a row for each arm."""
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
            f"{point.verify_ms:.1f}, {point.draft_ms:.1f}, {point.round_trip_ms:.1f}",
        )
    return table


def remarks_on(runs: Sequence[CheckedRun]) -> list[str]:
    """Remarks on the tables, in sentences; the last one counts the arms that agree."""
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
    """Every figure, after a description of what was compared."""
    checks = [{**asdict(run), "arms": {arm.name: _arm_figures(arm) for arm in run.arms}} for run in runs]
    return {**about, "tolerance": TOLERANCE, "checks": checks}


def _arm_figures(arm: CheckedArm) -> dict[str, Any]:
    figures = ("ratio", "simulated_ratio", "difference", "agrees")
    return {**asdict(arm), **{name: getattr(arm, name) for name in figures}}
