"""Attention of single rows on a processor: each row attends to a list of cells, wherever they lie.

A matrix library decides by the shape of a whole product in which order it sums, so a row's bits would depend on what
else is in its pass; and it wants the cells of a session side by side. Here a row is computed by itself, in the order of
its list. Its bits depend on its query and its cells alone, and many sessions cost no more than their rows.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numba import carray, njit, prange
from torch import Tensor

from sybil_engine.models.kernels.vectors import (
    LANES,
    add,
    broadcast,
    floor,
    fma,
    greater,
    lane,
    load,
    multiply,
    pointer,
    power_of_two,
    store,
    subtract,
    totals,
)

LIST_STEP = LANES
"""Lists are padded to a multiple of this many cells."""

_F = np.float32
# A number of the type in which the kernel sees keys and values.
_SEEN_AS = {torch.float32: np.float32(0), torch.bfloat16: np.int16(0)}
# Keys and values of so many cells stay in the first cache while each query of a head reads them.
_TILE_CELLS = 64
# Numbers of a result that stay in registers while all cells are added.
_STRIP = 4 * LANES
_OPTIONS = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def _can_keep() -> bool:
    """Whether numba finds a folder for its compiled code."""
    return "NUMBA_CACHE_DIR" in os.environ or any(
        os.access(folder, os.W_OK) for folder in (Path(__file__).parent, os.path.expanduser("~"))
    )


_Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
_compiled = cast(_Compiler, njit(cache=_can_keep(), **_OPTIONS))
_compiled_parallel = cast(_Compiler, njit(cache=_can_keep(), parallel=True, **_OPTIONS))


@_compiled
def _score(query: Any, keys: Any, firsts: Any, start: int, end: int, scale: Any, scores: Any) -> None:
    """Fill scores from `start` to `end` with the scaled products of a query and keys.

    Args:
        query: [key_dim].
        keys: flat.
        firsts: of each cell, where its key begins.
    """
    for cell in range(start, end, LANES):
        at0, at1, at2, at3 = firsts[cell], firsts[cell + 1], firsts[cell + 2], firsts[cell + 3]
        at4, at5, at6, at7 = firsts[cell + 4], firsts[cell + 5], firsts[cell + 6], firsts[cell + 7]
        sum0 = sum1 = sum2 = sum3 = sum4 = sum5 = sum6 = sum7 = broadcast(_F(0))
        for i in range(0, len(query), LANES):
            part = load(query, i)
            sum0, sum1 = fma(part, load(keys, at0 + i), sum0), fma(part, load(keys, at1 + i), sum1)
            sum2, sum3 = fma(part, load(keys, at2 + i), sum2), fma(part, load(keys, at3 + i), sum3)
            sum4, sum5 = fma(part, load(keys, at4 + i), sum4), fma(part, load(keys, at5 + i), sum5)
            sum6, sum7 = fma(part, load(keys, at6 + i), sum6), fma(part, load(keys, at7 + i), sum7)
        products = totals(sum0, sum1, sum2, sum3, sum4, sum5, sum6, sum7)
        store(scores, cell, multiply(products, broadcast(scale)))


@_compiled
def _score_two(one: Any, two: Any, keys: Any, firsts: Any, start: int, end: int, scale: Any, scores: Any) -> None:
    """Do what `_score` does for two queries, so that each key is loaded once for both.

    Args:
        one, two: [key_dim].
        scores: of both.
    """
    for cell in range(start, end, LANES):
        at0, at1, at2, at3 = firsts[cell], firsts[cell + 1], firsts[cell + 2], firsts[cell + 3]
        at4, at5, at6, at7 = firsts[cell + 4], firsts[cell + 5], firsts[cell + 6], firsts[cell + 7]
        one0 = one1 = one2 = one3 = one4 = one5 = one6 = one7 = broadcast(_F(0))
        two0 = two1 = two2 = two3 = two4 = two5 = two6 = two7 = broadcast(_F(0))
        for i in range(0, len(one), LANES):
            part, other = load(one, i), load(two, i)
            key0, key1, key2, key3 = load(keys, at0 + i), load(keys, at1 + i), load(keys, at2 + i), load(keys, at3 + i)
            key4, key5, key6, key7 = load(keys, at4 + i), load(keys, at5 + i), load(keys, at6 + i), load(keys, at7 + i)
            one0, two0 = fma(part, key0, one0), fma(other, key0, two0)
            one1, two1 = fma(part, key1, one1), fma(other, key1, two1)
            one2, two2 = fma(part, key2, one2), fma(other, key2, two2)
            one3, two3 = fma(part, key3, one3), fma(other, key3, two3)
            one4, two4 = fma(part, key4, one4), fma(other, key4, two4)
            one5, two5 = fma(part, key5, one5), fma(other, key5, two5)
            one6, two6 = fma(part, key6, one6), fma(other, key6, two6)
            one7, two7 = fma(part, key7, one7), fma(other, key7, two7)
        of_one = totals(one0, one1, one2, one3, one4, one5, one6, one7)
        of_two = totals(two0, two1, two2, two3, two4, two5, two6, two7)
        store(scores[0], cell, multiply(of_one, broadcast(scale)))
        store(scores[1], cell, multiply(of_two, broadcast(scale)))


@_compiled
def _exponential(exponents: Any) -> Any:
    """e to the power of each lane, at most 0: 2^k * e^r, |r| <= ln(2) / 2, where e^r is a polynomial of degree 6.

    The coefficients are those of Cephes, expf.
    """
    x = greater(exponents, broadcast(_F(-87)))
    k = floor(fma(x, broadcast(_F(1.44269504)), broadcast(_F(0.5))))
    r = fma(k, broadcast(_F(2.12194440e-4)), fma(k, broadcast(_F(-0.693359375)), x))
    p = fma(broadcast(_F(1.9875691500e-4)), r, broadcast(_F(1.3981999507e-3)))
    p = fma(p, r, broadcast(_F(8.3334519073e-3)))
    p = fma(p, r, broadcast(_F(4.1665795894e-2)))
    p = fma(p, r, broadcast(_F(1.6666665459e-1)))
    p = fma(p, r, broadcast(_F(5.0000001201e-1)))
    return multiply(add(fma(multiply(p, r), r, r), broadcast(_F(1))), power_of_two(k))


@_compiled
def _weigh(scores: Any, count: int) -> None:
    """Turn the first `count` scores into weights with a sum of 1; the rest, less than a vector, become 0."""
    scores[count:] = -np.inf
    most = load(scores, 0)
    for cell in range(LANES, len(scores), LANES):
        most = greater(most, load(scores, cell))
    highest = lane(most, 0)
    for i in range(1, LANES):
        highest = max(highest, lane(most, i))
    sums = broadcast(_F(0))
    for cell in range(0, len(scores), LANES):
        weights = _exponential(subtract(load(scores, cell), broadcast(highest)))
        store(scores, cell, weights)
        if cell + LANES > count:
            scores[count:] = _F(0)
            weights = load(scores, cell)
        sums = add(sums, weights)
    total = _F(0)
    for i in range(LANES):
        total += lane(sums, i)
    for cell in range(0, len(scores), LANES):
        store(scores, cell, multiply(load(scores, cell), broadcast(_F(1) / total)))


@_compiled
def _average(weights: Any, values: Any, firsts: Any, start: int, end: int, result: Any) -> None:
    """Add the weighted values of the cells from `start` to `end`.

    Args:
        values: flat.
        firsts: of each cell, where its value begins.
        result: [value_dim].
    """
    for cell in range(start, end, LANES):
        at0, at1, at2, at3 = firsts[cell], firsts[cell + 1], firsts[cell + 2], firsts[cell + 3]
        at4, at5, at6, at7 = firsts[cell + 4], firsts[cell + 5], firsts[cell + 6], firsts[cell + 7]
        by0, by1, by2, by3 = weights[cell], weights[cell + 1], weights[cell + 2], weights[cell + 3]
        by4, by5, by6, by7 = weights[cell + 4], weights[cell + 5], weights[cell + 6], weights[cell + 7]
        for i in range(0, len(result), LANES):
            part = load(result, i)
            part = fma(broadcast(by1), load(values, at1 + i), fma(broadcast(by0), load(values, at0 + i), part))
            part = fma(broadcast(by3), load(values, at3 + i), fma(broadcast(by2), load(values, at2 + i), part))
            part = fma(broadcast(by5), load(values, at5 + i), fma(broadcast(by4), load(values, at4 + i), part))
            part = fma(broadcast(by7), load(values, at7 + i), fma(broadcast(by6), load(values, at6 + i), part))
            store(result, i, part)


@_compiled
def _average_two(weights: Any, values: Any, firsts: Any, start: int, end: int, one: Any, two: Any) -> None:
    """Do what `_average` does for two results, so that each value is loaded once for both.

    Args:
        weights: of both.
        one, two: [value_dim], a multiple of `_STRIP`.
    """
    for i in range(0, len(one), _STRIP):
        one0, one1, one2, one3 = load(one, i), load(one, i + 8), load(one, i + 16), load(one, i + 24)
        two0, two1, two2, two3 = load(two, i), load(two, i + 8), load(two, i + 16), load(two, i + 24)
        for cell in range(start, end):
            at, by, other = firsts[cell] + i, broadcast(weights[0, cell]), broadcast(weights[1, cell])
            value0, value1 = load(values, at), load(values, at + 8)
            value2, value3 = load(values, at + 16), load(values, at + 24)
            one0, two0 = fma(by, value0, one0), fma(other, value0, two0)
            one1, two1 = fma(by, value1, one1), fma(other, value1, two1)
            one2, two2 = fma(by, value2, one2), fma(other, value2, two2)
            one3, two3 = fma(by, value3, one3), fma(other, value3, two3)
        store(one, i, one0)
        store(one, i + 8, one1)
        store(one, i + 16, one2)
        store(one, i + 24, one3)
        store(two, i, two0)
        store(two, i + 8, two1)
        store(two, i + 16, two2)
        store(two, i + 24, two3)


@_compiled
def _attend_row(queries: Any, keys: Any, values: Any, seen: Any, scale: Any, kv_heads: int, result: Any) -> None:
    """Attend from one row.

    Args:
        queries, result: [heads, dim].
        keys, values: flat.
        seen: how many cells, then which, padded to whole vectors.
    """
    groups, cells = len(queries) // kv_heads, -(-seen[0] // LANES) * LANES
    # Queries that share a key go in pairs; what is computed for one of them does not change.
    paired = 0 if result.shape[1] % _STRIP else groups - groups % 2
    scores = np.empty((groups, cells), _F)
    key_firsts, value_firsts = np.empty((2, cells), np.int64)
    result[:] = _F(0)
    for head in range(kv_heads):
        for cell in range(cells):
            key_firsts[cell] = (seen[1 + cell] * kv_heads + head) * queries.shape[1]
            value_firsts[cell] = (seen[1 + cell] * kv_heads + head) * result.shape[1]
        asked = queries[head * groups : (head + 1) * groups]
        answered = result[head * groups : (head + 1) * groups]
        for start in range(0, cells, _TILE_CELLS):
            end = min(start + _TILE_CELLS, cells)
            for group in range(0, paired, 2):
                _score_two(
                    asked[group], asked[group + 1], keys, key_firsts, start, end, scale, scores[group : group + 2]
                )
            for group in range(paired, groups):
                _score(asked[group], keys, key_firsts, start, end, scale, scores[group])
        for group in range(groups):
            _weigh(scores[group], seen[0])
        for start in range(0, cells, _TILE_CELLS):
            end = min(start + _TILE_CELLS, cells)
            for group in range(0, paired, 2):
                _average_two(
                    scores[group : group + 2], values, value_firsts, start, end, answered[group], answered[group + 1]
                )
            for group in range(paired, groups):
                _average(scores[group], values, value_firsts, start, end, answered[group])


@_compiled
def _attend_rows(addresses: Any, shape: Any, like: Any, scale: Any, first: int, end: int) -> None:
    """Attend from the rows from `first` to `end`.

    Args:
        addresses: of queries, keys, values, lists and result.
        shape: rows, heads, kv_heads, key_dim, value_dim, length of a list.
        like: a number of the type in which keys and values are seen.
    """
    rows, heads, kv_heads, key_dim, value_dim, length = shape
    queries = carray(pointer(addresses[0], scale), (rows, heads, key_dim))
    # Their sizes do not matter.
    keys, values = carray(pointer(addresses[1], like), (1,)), carray(pointer(addresses[2], like), (1,))
    lists = carray(pointer(addresses[3], np.int32(0)), (rows, length))
    result = carray(pointer(addresses[4], scale), (rows, heads, value_dim))
    for row in range(first, end):
        _attend_row(queries[row], keys, values, lists[row], scale, kv_heads, result[row])


@_compiled_parallel
def _attend_rows_in_parallel(addresses: Any, shape: Any, like: Any, scale: Any, threads: int) -> None:
    """Attend from all rows on several threads, which changes none of them; see `_attend_rows`."""
    for part in prange(threads):
        _attend_rows(addresses, shape, like, scale, part * shape[0] // threads, (part + 1) * shape[0] // threads)


_library = torch.library.Library("sybil", "DEF")
_library.define("attend(Tensor queries, Tensor keys, Tensor values, Tensor lists, float scale) -> Tensor")


def attend(queries: Tensor, keys: Tensor, values: Tensor, lists: Tensor, scale: float) -> Tensor:
    """Attend from each row to the cells of its list. In a trace it is one call.

    Args:
        queries: [rows, heads, key_dim].
        keys, values: [cells, kv_heads, key_dim] and [cells, kv_heads, value_dim] of the whole cache.
        lists: [rows, 1 + most cells], int32: how many cells a row sees, at least one, then which, in order. Padded with
            cells whose numbers are finite to a multiple of `LIST_STEP`.

    Returns:
        [rows, heads, value_dim], in the type of the queries.
    """
    result: Tensor = torch.ops.sybil.attend(queries, keys, values, lists, scale)
    return result


def _on_processor(queries: Tensor, keys: Tensor, values: Tensor, lists: Tensor, scale: float) -> Tensor:
    (rows, heads, key_dim), (_, kv_heads, value_dim), like = queries.shape, values.shape, _SEEN_AS.get(keys.dtype)
    if like is None or key_dim % LANES or value_dim % LANES:
        return _elsewhere(queries, keys, values, lists, scale)
    queries_32 = queries.float().contiguous()
    result = queries_32.new_empty(rows, heads, value_dim)
    addresses = tuple(each.data_ptr() for each in (queries_32, keys, values, lists, result))
    shape = rows, heads, kv_heads, key_dim, value_dim, lists.shape[1]
    threads = min(rows, torch.get_num_threads())
    if threads == 1:
        _attend_rows(addresses, shape, like, np.float32(scale), 0, rows)
    else:
        _attend_rows_in_parallel(addresses, shape, like, np.float32(scale), threads)
    return result.to(queries.dtype)


def _elsewhere(queries: Tensor, keys: Tensor, values: Tensor, lists: Tensor, scale: float) -> Tensor:
    """The same in torch's own calls: every row's cells are copied."""
    counts, cells = lists[:, :1], lists[:, 1:].long()
    groups = queries.shape[1] // keys.shape[1]
    hidden = torch.arange(cells.shape[1], device=lists.device) >= counts
    seen_keys, seen_values = (side[cells].transpose(1, 2).repeat_interleave(groups, 1) for side in (keys, values))
    mask = torch.zeros_like(hidden, dtype=queries.dtype).masked_fill_(hidden, -math.inf)[:, None, None]
    return torch.nn.functional.scaled_dot_product_attention(
        queries.unsqueeze(2), seen_keys, seen_values, attn_mask=mask, scale=scale
    ).squeeze(2)


_library.impl("attend", _on_processor, "CPU")
_library.impl("attend", _elsewhere, "CompositeExplicitAutograd")
