"""The figures of a load test, from records."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.agreement import Agreement
from loadtest.figures import distribution
from loadtest.level import Level
from loadtest.measured import MeasuredSegment
from loadtest.page import write_page
from loadtest.record import Arrival, RequestRecord, Status
from loadtest.rows import rows
from loadtest.segment import Segment
from loadtest.slo import Slo
from loadtest.table import summary
from loadtest.worker import Part
from loadtest.workload import Workload
from sybil_engine.core.completion import Usage
from sybil_engine.core.types import Speculation

S = 1_000_000_000
AGREEMENT = {"compared_tokens": 0, "differing_tokens": 0, "examples": []}
DOCUMENT = {
    "target": "t",
    "address": "a",
    "rows": [],
    "agreement": AGREEMENT,
    "cut_short": "",
    "slo": "",
    "settings": {},
}
ONE, FOUR = Level(concurrency=1), Level(concurrency=4)


def segment(arm: str = "off", level: Level = ONE, **fields: object) -> Segment:
    plain = Segment("", Workload(()), Speculation(arm), level, 0, str(level), duration_s=1, own_head="own")
    return replace(plain, **fields)  # type: ignore[arg-type]


def record(
    index: int, *arrivals: Arrival, ids: str = "", status: Status = Status.COMPLETED, due_ns: int = 0
) -> RequestRecord:
    end_ns = arrivals[-1][0] if arrivals else due_ns
    usage = Usage(tested_tokens=4, accepted_tokens=3, prompt_tokens=10, cached_prompt_tokens=5, queue_ns=10**6)
    return RequestRecord(index, due_ns, end_ns, status, arrivals, tuple(map(ord, ids)), usage=usage)


def measured(where: Segment, *records: RequestRecord, until_ns: int = 10 * S) -> MeasuredSegment:
    return MeasuredSegment.of(where, [Part(list(records), full_until_ns=until_ns, busy=0.5)])


def test_throughput_is_of_the_time_under_full_load() -> None:
    ramped = segment(start_ns=0, ramp_s=2)
    early = record(0, (1 * S, 100), (5 * S, 30))
    late = record(1, (9 * S, 10), (11 * S, 100), due_ns=3 * S)
    (row,) = rows([measured(ramped, early, late)], None)
    assert row["tokens_per_second"] == (30 + 10) / 8
    # The request that was sent within the ramp is not counted.
    assert (row["requests"], row["ttft_ms"]["p50"]) == (1, 6000)


def test_the_throughput_of_a_number_of_requests_is_all_their_tokens_over_the_time_of_the_last() -> None:
    fast, slow = record(0, (1 * S, 96)), record(1, (2 * S, 1), (8 * S, 95))
    (row,) = rows([measured(segment(requests=2, duration_s=None), fast, slow, until_ns=1 * S)], None)
    assert row["tokens_per_second"] == 2 * 96 / 8


def test_of_a_lost_server_counts_only_the_time_before() -> None:
    part = Part([record(0, (1 * S, 96)), record(1, (2 * S, 4))], full_until_ns=2 * S, lost=True)
    found = MeasuredSegment.of(segment(requests=9, duration_s=None), [part])
    assert (found.tokens_per_second, found.lost) == (50, True)


def test_the_slowest_worker_ends_no_ones_full_load_later() -> None:
    parts = [Part([], full_until_ns=5 * S), Part([], full_until_ns=7 * S)]
    assert MeasuredSegment.of(segment(), parts).until_ns == 5 * S


def test_ratios_are_to_the_first_arm_and_to_the_lowest_level() -> None:
    found = rows(
        [
            measured(segment("off", ONE), record(0, (1 * S, 100))),
            measured(segment("auto", ONE), record(0, (1 * S, 150))),
            measured(segment("off", FOUR), record(0, (1 * S, 200))),
            measured(segment("auto", FOUR), record(0, (1 * S, 600))),
        ],
        None,
    )
    ratios = [
        (row["arm"], row["ratio_to_first_arm"]["median"], row["ratio_to_lowest_level"]["median"]) for row in found
    ]
    assert ratios == [("off", 1, 1), ("auto", 1.5, 1), ("off", 1, 2), ("auto", 3, 4)]


def test_a_ratio_is_the_median_of_the_rounds_with_the_interval_that_they_span() -> None:
    # The machine was three times as fast in the last round, for both.
    speeds = {"off": (100, 100, 300), "auto": (110, 130, 330)}
    found = rows(
        [
            measured(segment(arm, round_number=number), record(0, (1 * S, tokens)))
            for arm, each in speeds.items()
            for number, tokens in enumerate(each)
        ],
        None,
    )
    assert found[1]["ratio_to_first_arm"] == pytest.approx({"median": 1.1, "low": 1.1, "high": 1.3})


def test_auto_is_measured_by_the_arm_that_was_the_fastest_of_the_others_at_each_level() -> None:
    speeds = {ONE: {"off": 100, "pipelined": 200, "auto": 190}, FOUR: {"off": 300, "pipelined": 150, "auto": 330}}
    found = rows(
        [
            measured(segment(arm, level), record(0, (1 * S, tokens)))
            for level, each in speeds.items()
            for arm, tokens in each.items()
        ],
        None,
    )
    against = [(row["best_fixed_arm"], row["ratio_to_best_fixed_arm"]) for row in found]
    one, four = ({"median": ratio, "low": ratio, "high": ratio} for ratio in (0.95, 1.1))
    nothing = (None, None)
    assert against == [nothing, nothing, ("pipelined", one), nothing, nothing, ("off", four)]


def test_rounds_that_only_one_arm_had_make_no_ratio() -> None:
    lost = [measured(segment("off"), record(0, (1 * S, 100))), measured(segment("auto", round_number=1))]
    assert [row["ratio_to_first_arm"] for row in rows(lost, None)] == [{"median": 1, "low": 1, "high": 1}, None]


def test_the_table_shows_ratios_with_their_intervals() -> None:
    found = [
        measured(segment(arm, level, round_number=number), record(0, (1 * S, tokens)))
        for level, factor in ((ONE, 1), (FOUR, 3))
        for arm, each in {"off": (100, 100), "lockstep": (120, 140), "auto": (130, 130)}.items()
        for number, tokens in enumerate(factor * speed for speed in each)
    ]
    console = Console(file=StringIO(), width=160)
    console.print(*summary({**DOCUMENT, "rows": rows(found, None)}))
    lines = [line.split() for line in console.file.getvalue().splitlines() if "lockstep" in line]  # type: ignore[attr-defined]
    ratios = next(line for line in lines if "lockstep" in line and "at" in line and "of" in line)
    assert " ".join(ratios) == "1 at once auto 1.30 1.00 1.01 [0.93, 1.08] of lockstep"


def test_rounds_are_counted_together_and_comparisons_not() -> None:
    (row,) = rows(
        [
            measured(segment(), record(0, (1 * S, 100))),
            measured(segment(round_number=1), record(0, (1 * S, 300))),
            measured(segment(timed=False), record(0, (1 * S, 9999))),
        ],
        None,
    )
    assert (row["tokens_per_second"], row["tokens_per_second_by_round"]) == (20, [10, 30])


def test_requests_are_counted_by_how_they_ended_and_goodput_by_the_limits() -> None:
    records = [
        record(0, (1 * S, 1), (2 * S, 1), ids="ab"),
        record(1, (3 * S, 1), (4 * S, 1), ids="ab"),
        record(2, status=Status.REFUSED, due_ns=S),
        record(3, (1 * S, 1), status=Status.LATE, ids="a"),
        record(4, status=Status.FAILED),
    ]
    (row,) = rows([measured(segment(), *records)], Slo.parse("ttft=2s"))
    assert [row[status.value] for status in Status] == [2, 1, 1, 0, 1]
    assert (row["goodput"], row["good_share"]) == (1 / 4, 1 / 5)
    assert (row["acceptance_rate"], row["cached_prompt_share"], row["queue_ms"]["p50"]) == (0.75, 0.5, 1)
    assert row["ttft_ms"]["mean"] == 2000


def test_percentiles_lie_between_neighbours() -> None:
    assert distribution([1e6, None, 2e6, 3e6, 5e6]) == {
        "mean": 2.75,
        "p50": 2.5,
        "p90": 4.4,
        "p99": pytest.approx(4.94),
    }
    assert distribution([None]) is None


@pytest.mark.parametrize(
    ("ids", "status", "compared", "differing"),
    [
        ("abcd", Status.COMPLETED, 4, 0),
        ("abxd", Status.COMPLETED, 4, 1),
        ("ab", Status.CANCELLED, 2, 0),
        ("ab", Status.COMPLETED, 4, 2),
        ("", Status.REFUSED, 0, 0),
    ],
)
def test_tokens_of_equal_requests_are_compared_as_far_as_they_came(
    ids: str, status: Status, compared: int, differing: int
) -> None:
    off = measured(segment("off", own_head=""), record(0, ids="abcd"))
    auto = measured(segment("auto", own_head=""), record(0, ids=ids, status=status), record(1, ids="zz"))
    found = Agreement.of([off, auto])
    assert (found.compared_tokens, found.differing_tokens) == (compared, differing)
    assert bool(found.examples) is bool(differing)


def test_requests_of_other_prompts_are_not_compared() -> None:
    of_their_own = [measured(segment("off"), record(0, ids="ab")), measured(segment("auto"), record(0, ids="xy"))]
    in_other_levels = [
        measured(segment("off", ONE, own_head=""), record(0, ids="ab")),
        measured(segment("auto", FOUR, own_head=""), record(0, ids="xy")),
    ]
    assert Agreement.of([*of_their_own, *in_other_levels]) == Agreement(0, 0)


def test_a_report_without_figures_says_why(tmp_path: Path) -> None:
    assert "was lost" in write_page({**DOCUMENT, "cut_short": "was lost"}, [], tmp_path).read_text()
