"""How sure a median is."""

from reporting.intervals import interval_text, median_interval


def test_an_interval_narrows_with_more_values() -> None:
    few, many = median_interval([1, 2, 3, 4, 5]), median_interval([1, 2, 3, 4, 5] * 40)
    assert many["high"] - many["low"] < few["high"] - few["low"]


def test_an_interval_of_one_value_is_that_value() -> None:
    assert interval_text(median_interval([1.5])) == "1.50 [1.50, 1.50]"
