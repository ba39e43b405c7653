"""What a check against the engine says: a table for people, JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from simulator.check import TOLERANCE, CheckedArm, CheckedRun, Simulated
from simulator.report import point_table

_SIMULATED = ("simulated", "difference")


def check_table(run: CheckedRun) -> Table:
    """One temperature, an arm a row."""
    figures = ("tokens/s", "/ off", *_SIMULATED, "times in place", *_SIMULATED, "tokens/pass", "simulated")
    table = point_table(run.temperature, run.point, "arm", figures)
    for arm in run.arms:
        point = arm.in_place.point
        table.add_row(
            arm.name,
            f"{arm.tokens_per_second:.1f}",
            f"{arm.ratio:.2f}",
            f"{arm.nominal.ratio:.2f}",
            _difference(arm.nominal),
            f"{point.verify_ms:.1f}, {point.draft_ms:.1f}, {point.round_trip_ms:.1f}",
            f"{arm.in_place.ratio:.2f}",
            _difference(arm.in_place),
            f"{arm.tokens_per_pass:.2f}",
            f"{arm.in_place.tokens_per_pass:.2f}",
        )
    return table


def remarks_on(runs: Sequence[CheckedRun]) -> list[str]:
    """What a reader should know beside the tables, in sentences; the last one counts the arms that agree."""
    remarks = [
        "Speed of decoding, prompts and first passes left out; / off: as a multiple of plain decoding. The difference "
        f"of off is that of its tokens/s, that of other arms the multiple's; * is beyond {TOLERANCE:.0%}."
    ]
    remarks += [
        f"temperature {run.temperature:g}: {run.left_out} of {run.left_out + run.compared} completions are left out, "
        "their text is not the recorded one"
        for run in runs
        if run.left_out
    ]
    nominal, in_place = _agreeing(runs, "nominal"), _agreeing(runs, "in_place")
    remarks.append(
        f"Within {TOLERANCE:.0%} of what was measured: {nominal} of {_arms(runs)} at the nominal times, {in_place} at "
        "those measured in place."
    )
    return remarks


def check_figures(runs: Sequence[CheckedRun], about: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure.

    Args:
        about: what was compared.
    """
    return {
        **about,
        "tolerance": TOLERANCE,
        "arms": _arms(runs),
        "within_at_nominal_times": _agreeing(runs, "nominal"),
        "within_at_times_in_place": _agreeing(runs, "in_place"),
        "checks": [
            {
                "temperature": run.temperature,
                "compared": run.compared,
                "left_out": run.left_out,
                "arms": {arm.name: _arm_figures(arm) for arm in run.arms},
            }
            for run in runs
        ],
    }


def _arm_figures(arm: CheckedArm) -> dict[str, Any]:
    return {
        "measured": {
            "decode_tokens_per_second": arm.tokens_per_second,
            "ratio_to_off": arm.ratio,
            "tokens_per_pass": arm.tokens_per_pass,
        },
        "nominal": _simulated_figures(arm.nominal),
        "in_place": _simulated_figures(arm.in_place),
    }


def _simulated_figures(simulated: Simulated) -> dict[str, Any]:
    return {
        "point": asdict(simulated.point),
        "decode_tokens_per_second": simulated.tokens_per_second,
        "ratio_to_off": simulated.ratio,
        "tokens_per_pass": simulated.tokens_per_pass,
        "difference": simulated.difference,
        "agrees": simulated.agrees,
    }


def _difference(simulated: Simulated) -> str:
    return f"{simulated.difference:+.1%}{' ' if simulated.agrees else '*'}"


def _arms(runs: Sequence[CheckedRun]) -> int:
    return sum(len(run.arms) for run in runs)


def _agreeing(runs: Sequence[CheckedRun], times: str) -> int:
    return sum(getattr(arm, times).agrees for run in runs for arm in run.arms)
