"""The expected time of a pass of some rows, from the passes seen."""

import pytest

from sybil_engine.core.pass_times import PassTimes


def test_pass_times_are_a_line_through_what_was_seen() -> None:
    times = PassTimes()
    for turn in range(200):
        rows = turn % 7 + 1
        times.add(rows, 5_000_000 + 300_000 * rows + (turn % 3 - 1) * 10_000)
    assert times.row_ns == pytest.approx(300_000, rel=0.02)
    assert times.expected_ns(20) == pytest.approx(11_000_000, rel=0.02)


def test_where_passes_were_seen_the_line_does_not_count() -> None:
    times = PassTimes()
    for turn in range(200):
        rows = (1, 4, 8, 32)[turn % 4]
        times.add(rows, 50_000_000 if rows > 16 else 30_000_000)
    assert [times.expected_ns(rows) for rows in (1, 4, 8, 30, 32)] == pytest.approx([3e7, 3e7, 3e7, 5e7, 5e7])


def test_a_size_that_was_not_seen_for_long_is_measured_anew() -> None:
    times = PassTimes()
    for _ in range(20):
        times.add(8, 90_000_000)
    for _ in range(600):
        times.add(2, 10_000_000)
    assert times.expected_ns(8) < 20_000_000
    for _ in range(5):
        times.add(8, 12_000_000)
    assert times.expected_ns(8) == pytest.approx(1.2e7)


def test_a_pass_is_expected_to_take_what_its_padded_size_took() -> None:
    times = PassTimes(padded=lambda rows: max(rows, 4))
    for _ in range(20):
        times.add(4, 10_000_000)
        times.add(8, 20_000_000)
    assert times.expected_ns(1) == pytest.approx(1e7)


@pytest.mark.parametrize("seen", [[], [4] * 50])
def test_without_passes_of_different_rows_a_row_costs_nothing_and_nothing_breaks(seen: list[int]) -> None:
    times = PassTimes()
    for rows in seen:
        times.add(rows, 3_000_000)
    assert times.row_ns == 0
    assert times.expected_ns(9) == pytest.approx(3e6 if seen else 1e7)
