"""Batches are packed into allowed shapes without losing, repeating or reordering a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sybil_engine.models.numerics.shape_class import ShapeClass
from sybil_engine.models.rows import Rows, Shape, pack


def every_shape(totals: range, most_sessions: int = 8) -> ShapeClass:
    return ShapeClass([(b, total // b) for total in totals for b in range(1, most_sessions + 1) if total % b == 0])


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), exact=st.booleans())
def test_every_row_is_fed_once_and_a_session_in_order(lengths: list[int], exact: bool) -> None:
    shapes = every_shape(range(4, 13))
    batch = [Rows(slot, 10 * slot, tuple(range(length))) for slot, length in enumerate(lengths)]
    fit = shapes.fit if exact else lambda sessions, rows: (sessions, rows)
    passes = pack(batch, shapes.most_rows, fit)
    results: dict[int, int] = {}
    fed: dict[int, list[int]] = {rows.slot: [] for rows in batch}
    for one in passes:
        sessions, most = one.shape
        assert not exact or sessions * most in shapes.totals
        assert len(one.pieces) <= sessions
        assert len({piece.rows.slot for piece in one.pieces}) == len(one.pieces)
        for piece in one.pieces:
            assert len(piece.rows.token_ids) <= most
            assert piece.rows.position == 10 * piece.rows.slot + len(fed[piece.rows.slot])
            fed[piece.rows.slot] += piece.rows.token_ids
            results |= {piece.start + row: token for row, token in enumerate(piece.rows.token_ids)}
    assert all(fed[rows.slot] == list(rows.token_ids) for rows in batch)
    assert [results[place] for place in range(sum(lengths))] == [token for rows in batch for token in rows.token_ids]


def test_neighbouring_slots_stand_in_order() -> None:
    batch = [Rows(slot, 0, (1,) * length) for slot, length in ((2, 3), (0, 1), (1, 2))]
    (one,) = pack(batch, 8, lambda sessions, rows: (sessions, rows))
    assert [piece.rows.slot for piece in one.pieces] == [0, 1, 2]
    assert one.shape == (3, 3)


@pytest.mark.parametrize(
    ("sessions", "rows", "shape"),
    [(1, 1, (1, 4)), (1, 9, (1, 9)), (3, 1, (3, 2)), (5, 1, (5, 1)), (7, 2, None), (1, 13, None), (2, 5, (2, 5))],
)
def test_a_pass_is_padded_up_into_the_class(sessions: int, rows: int, shape: Shape | None) -> None:
    assert every_shape(range(4, 13)).fit(sessions, rows) == shape


def test_whole_sessions_are_padded_only_where_rows_cannot_be() -> None:
    assert ShapeClass([(4, 1), (1, 4)]).fit(3, 1) == (4, 1)
