"""Amounts of memory are read as people write them, and nonsense is refused."""

import pytest

from sybil_engine.core.memory import amount_bytes, free_bytes, is_amount


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512M", 512 * 2**20), ("2G", 2**31), ("1.5 GiB", 3 * 2**29), ("25%", 250), ("100 %", 1000), ("4096", 4096)],
)
def test_an_amount_is_bytes_or_a_share_of_what_is_free(text: str, expected: int) -> None:
    assert is_amount(text)
    assert amount_bytes(text, 1000) == expected


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1G", "much", "1X", "G"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    assert not is_amount(text)


def test_a_machine_has_some_free_memory() -> None:
    assert 2**20 < free_bytes() < 2**50
