"""Laws of attention over listed cells: each query's bits depend on itself and its own cells."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sybil_engine.models.kernels.seen_cells import LIST_STEP, attend

CELLS = 300
SCALE = 0.125


def cache(kv_heads: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dim + kv_heads)
    keys, values = torch.randn(2, CELLS, kv_heads, dim, generator=generator)
    return keys.to(dtype), values.to(dtype)


def asked(rows: int, heads: int, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, heads, dim, generator=torch.Generator().manual_seed(rows + heads)).to(dtype)


def listed(rows: Sequence[Sequence[int]]) -> Tensor:
    most = -(-max(map(len, rows)) // LIST_STEP) * LIST_STEP
    lists = torch.full((len(rows), 1 + most), CELLS - 1, dtype=torch.int32)
    for row, cells in zip(lists, rows, strict=True):
        row[0] = len(cells)
        row[1 : 1 + len(cells)] = torch.tensor(cells)
    return lists


def some_rows(count: int) -> list[list[int]]:
    """Lists of different lengths, of cells that lie anywhere."""
    generator = torch.Generator().manual_seed(count)
    return [torch.randperm(CELLS - 1, generator=generator)[: 3 + 31 * row].tolist() for row in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 40, 12])
@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_it_is_the_attention_of_the_textbook(groups: int, dim: int, dtype: torch.dtype) -> None:
    keys, values = cache(2, dim, dtype)
    rows = some_rows(5)
    queries = asked(5, 2 * groups, dim, dtype)
    attended = attend(queries, keys, values, listed(rows), SCALE)
    for row, cells in enumerate(rows):
        for head in range(2 * groups):
            scores = keys[cells, head // groups].double() @ queries[row, head].double() * SCALE
            expected = torch.softmax(scores, dim=0) @ values[cells, head // groups].double()
            tolerance = 1e-5 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(attended[row, head].double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dim", [64, 40])
@pytest.mark.parametrize("groups", [2, 3, 5])
def test_a_query_gets_the_same_bits_alone_as_among_those_that_share_its_keys(groups: int, dim: int) -> None:
    keys, values = cache(2, dim)
    lists, queries = listed(some_rows(4)), asked(4, 2 * groups, dim)
    together = attend(queries, keys, values, lists, SCALE)
    for place in range(groups):
        alone = attend(queries[:, place::groups].contiguous(), keys, values, lists, SCALE)
        assert torch.equal(alone, together[:, place::groups])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_gets_the_same_bits_whatever_else_is_in_its_pass(threads: int) -> None:
    keys, values = cache(2, 64)
    rows, queries = some_rows(9), asked(9, 6, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = attend(queries, keys, values, listed(rows), SCALE)
    finally:
        torch.set_num_threads(before)
    for row, cells in enumerate(rows):
        assert torch.equal(attend(queries[row : row + 1], keys, values, listed([cells]), SCALE)[0], together[row])


def test_where_cells_lie_does_not_matter_and_their_order_is_that_of_the_list() -> None:
    keys, values = cache(2, 64)
    (cells,) = some_rows(8)[-1:]
    queries = asked(1, 6, 64)
    tidy_keys, tidy_values = keys.clone(), values.clone()
    tidy_keys[: len(cells)], tidy_values[: len(cells)] = keys[cells], values[cells]
    here = attend(queries, keys, values, listed([cells]), SCALE)
    assert torch.equal(here, attend(queries, tidy_keys, tidy_values, listed([range(len(cells))]), SCALE))
    backwards = attend(queries, keys, values, listed([cells[::-1]]), SCALE)
    assert not torch.equal(here, backwards)
    torch.testing.assert_close(here, backwards)
