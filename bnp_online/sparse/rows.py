"""Compiled search and choice of rows: for the values of a sample, and for their pairs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from ..mixture import draw
from .constants import (
    CANDIDATES,
    MOST_AMOUNT,
    MOST_PAIRS,
    PAIR_COUNT,
)
from .evidence import (
    counted,
    weight_of,
)
from .names import assign_name, before, find, unlink
from .state import (
    CLOSED,
    FRESH,
    KNOWN,
    MAX_VALUES,
    PAIR_NUMBER,
    RECYCLED,
    ROWS,
    SAMPLES,
    SEED,
    State,
)


@jit
def read(
    s: State,
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    amounts: NDArray[np.float64],
) -> int:
    """Find the rows of the values, and sort them; list the unknown values.

    Return the number of values without a column, of fields with a column for each value.
    """
    known, fresh, begin, without_column = 0, 0, 0, 0
    for i in range(ends.shape[0]):
        if amounts[i] != 0.0:
            of = fields[i]
            row = find(s, text, begin, ends[i], of) if of < s.kinds.shape[0] else -1
            if of < s.kinds.shape[0] and s.kinds[of] == CLOSED:
                without_column += row < 0 or s.column[row] < 0
            if row >= 0:
                s.rows[known], s.row_amounts[known] = row, _bounded(amounts[i])
                known += 1
            else:
                s.fresh[fresh] = i
                fresh += 1
        begin = ends[i]
    gap = 1
    while gap < known // 3:
        gap = 3 * gap + 1
    while gap > 0:  # Shellsort: the rows are distinct, so the result is unique
        for i in range(gap, known):
            row, amount, j = s.rows[i], s.row_amounts[i], i
            while j >= gap and s.rows[j - gap] > row:
                s.rows[j], s.row_amounts[j] = s.rows[j - gap], s.row_amounts[j - gap]
                j -= gap
            s.rows[j], s.row_amounts[j] = row, amount
        gap //= 3
    s.scalars[KNOWN], s.scalars[FRESH] = known, fresh
    return without_column


@jit_inline
def _bounded(amount: float) -> float:
    """Return an amount, compressed by a logarithm from a bound."""
    size = abs(amount)
    if size <= MOST_AMOUNT:
        return amount
    return math.copysign(MOST_AMOUNT * (1.0 + math.log(size / MOST_AMOUNT)), amount)


@jit_inline
def _mixed_bits(a: int | np.uint64, b: int | np.uint64) -> np.uint64:
    x = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@jit
def find_pairs(s: State) -> None:
    """List the pairs of values with enough samples, in the order of their rows."""
    mask, found, frequent = np.uint64(s.pair_scales.shape[0] - 1), 0, 0
    for e in range(int(s.scalars[KNOWN])):
        if weight_of(s, s.counts[s.rows[e]]) >= PAIR_COUNT:
            s.keys[frequent] = _mixed_bits(s.rows[e], s.generation[s.rows[e]])
            s.key_amounts[frequent] = s.row_amounts[e]
            frequent += 1
    for i in range(frequent):
        for j in range(i + 1, min(frequent, i + 1 + MOST_PAIRS - found)):
            s.pair_rows[found] = np.int64(_mixed_bits(s.keys[i], s.keys[j]) & mask)
            s.pair_amounts[found] = s.key_amounts[i] * s.key_amounts[j]
            found += 1
    first, last = counted(s, s.pair_counts.shape[1])
    for e in range(found):
        total = 0.0
        for c in range(first, last):
            total += s.pair_counts[s.pair_rows[e], c]
        s.pair_totals[e] = total
    s.scalars[PAIR_NUMBER] = found


@jit
def add_rows(
    s: State,
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    amounts: NDArray[np.float64],
) -> None:
    """Give the unknown values of a sample rows, in the order of their names."""
    known, fresh, now = int(s.scalars[KNOWN]), int(s.scalars[FRESH]), int(s.scalars[SAMPLES])
    for e in range(known):
        s.last[s.rows[e]] = now
    gap = 1
    while gap < fresh // 3:
        gap = 3 * gap + 1
    while gap > 0:  # Shellsort: the names are distinct, so the result is unique
        for i in range(gap, fresh):
            item, j = s.fresh[i], i
            while j >= gap and before(text, ends, fields, item, s.fresh[j - gap]):
                s.fresh[j] = s.fresh[j - gap]
                j -= gap
            s.fresh[j] = item
        gap //= 3
    for i in range(fresh):
        item = s.fresh[i]
        row = free_row(s, now, i)
        if row < 0:
            continue
        begin = ends[item - 1] if item > 0 else 0
        assign_name(s, row, text, begin, ends[item], fields[item])
        s.last[row], s.column[row] = now, -1
        s.rows[known], s.row_amounts[known] = row, _bounded(amounts[item])
        known += 1
    s.scalars[KNOWN] = known


@jit
def free_row(s: State, now: int, turn: int) -> int:
    """Return a row without a value: the next one or, at the limit, the least recently used of some."""
    rows = int(s.scalars[ROWS])
    if rows < s.config[MAX_VALUES]:
        s.scalars[ROWS] += 1.0
        return rows
    oldest = -1
    for i in range(CANDIDATES):
        row = int(np.int64(draw(s.config[SEED], now, turn * CANDIDATES + i, rows)))
        if s.last[row] >= now or s.column[row] >= 0:
            continue
        if oldest < 0 or s.last[row] < s.last[oldest] or (s.last[row] == s.last[oldest] and row < oldest):
            oldest = row
    if oldest < 0:
        return -1
    unlink(s, oldest)
    for c in range(s.counts.shape[1]):
        s.counts[oldest, c] = 0.0
    for c in range(s.weights.shape[1]):
        s.weights[oldest, c] = 0.0
    s.scales[oldest] = 0.0
    s.generation[oldest] += 1
    s.scalars[RECYCLED] += 1.0
    return oldest
