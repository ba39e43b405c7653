import pytest

from sybil_engine.models.numerics.row_class import AnyRows, RowClass


@pytest.mark.parametrize(("rows", "padded"), [(1, 4), (4, 4), (5, 6), (6, 6), (7, 12), (12, 12)])
def test_a_pass_is_padded_up_into_the_class(rows: int, padded: int) -> None:
    assert RowClass([4, 6, 12]).padded(rows) == padded
    assert AnyRows(12).padded(rows) == rows
