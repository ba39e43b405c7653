"""Batches are packed into passes without losing, repeating or reordering a row."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from sybil_engine.models.rows import Rows, count_rows, pack

MOST_ROWS = 12


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), shared=st.booleans())
def test_every_row_is_fed_once_and_in_order(lengths: list[int], shared: bool) -> None:
    batch = [Rows(slot, 10 * slot, tuple(range(length))) for slot, length in enumerate(lengths)]
    passes = pack(batch, MOST_ROWS, shared=shared)
    assert all(0 < count_rows(members) <= MOST_ROWS for members in passes)
    fed: list[int] = []
    for rows in chain.from_iterable(passes):
        assert rows.position == 10 * rows.slot + len([token for token in fed if token == rows.slot])
        fed += [rows.slot] * len(rows.token_ids)
    token_ids = [token for members in passes for rows in members for token in rows.token_ids]
    assert token_ids == [token for rows in batch for token in rows.token_ids]
    assert fed == [rows.slot for rows in batch for _ in rows.token_ids]
    if shared:
        assert len(passes) == -(-sum(lengths) // MOST_ROWS), "no pass has room that the next one needed"
    else:
        assert all(len(members) == 1 for members in passes)


@given(lengths=st.lists(st.integers(1, MOST_ROWS), min_size=1, max_size=8))
def test_a_branch_is_never_cut(lengths: list[int]) -> None:
    batch = [Rows(0, 5, tuple(range(length)), first_cell=100 + 20 * place) for place, length in enumerate(lengths)]
    assert [rows for members in pack(batch, MOST_ROWS) for rows in members] == batch
