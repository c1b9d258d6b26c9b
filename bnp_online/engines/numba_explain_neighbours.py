"""Attribution of the neighbours' predictions to groups of inputs, in one sweep over the memory per order.

Groups become known one after the other, and their squared differences are added to the distances of the
remembered samples. So all sets of known groups of an order take one sweep together. An unknown input is
missing. Of many groups, several become known together: their change is divided in proportion to their
contributions through the other members. See `numba_explain`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from ..mixture import NEIGHBOURS as TABLE
from ..mixture import draw, neighbour_window
from .numba_buffers import (
    CAPACITY,
    DISTANCE,
    METRIC,
    MISSING_VALUES,
    PLACE,
    REMEMBERED,
    SEED,
    STEP,
    Buffers,
)
from .numba_kernels import BLOCK, Real, Reals, assign
from .numba_neighbours import greatest_window, vote

#: Greatest number of sets of known groups of an order for which neighbours are found.
STEPS = 8


@jit_inline
def attribute_neighbours(
    b: Buffers,
    x: NDArray[np.float64],
    z: Reals,
    groups: NDArray[np.int64],
    orders: int,
    ends: NDArray[np.float64],
    of_experts: NDArray[np.float64],
    order: NDArray[np.int64],
    sums: Reals,
    contributions: NDArray[np.float64],
) -> None:
    """Add the contributions of the groups through the neighbours.

    Groups become known in an order, and in its reverse. `order` is working space: the groups in their order,
    the inputs sorted by group, and the latest neighbours.
    """
    count, last = contributions.shape[0], ends.shape[1] - int(b.bins.shape[0] > 0)
    first, found = last - len(TABLE), b.found[0]
    size = 0.0
    for e in range(first, last):
        for c in range(ends.shape[2]):
            size += abs(of_experts[e, c] * (ends[0, e, c] - ends[1, e, c]))
    if size == 0.0:
        return
    members, starts = order[2 * count + 1 : 2 * count + 1 + len(x)], order[count : 2 * count + 1]
    latest = order[order.shape[0] - len(TABLE) * b.nearest.shape[1] :].reshape(len(TABLE), b.nearest.shape[1])
    _sort(groups, members, starts)
    known = 0
    for g in range(count):
        for j in members[starts[g] : starts[g + 1]]:
            if not math.isnan(x[j]):
                order[known] = g
                known += 1
                break
    for g in range(known - 1, 0, -1):
        other = draw(b.config[SEED], int(b.scalars[STEP]), g, g + 1)
        order[g], order[other] = order[other], order[g]
    remembered, capacity = int(b.scalars[REMEMBERED]), b.config[CAPACITY]
    newest, stored = (remembered - 1) % capacity, min(remembered, capacity)
    windows = (
        min(stored, greatest_window(b.sizes[0], 0)),
        min(stored, greatest_window(b.sizes[0], 1)),
    )
    missing, steps = b.scalars[MISSING_VALUES] > 0.0, min(known, STEPS)
    for j in range(x.shape[0]):
        missing = missing or math.isnan(x[j])
    for turn in range(orders):
        for i in range(sums.shape[0]):
            for k in range(sums.shape[1]):
                sums[i, k] = 0.0
        latest[:] = -1
        before = _valued(ends[1, first:last], of_experts[first:last])
        begin = 0
        for i in range(known):
            g = order[i if turn == 0 else known - 1 - i]
            for j in members[starts[g] : starts[g + 1]]:
                if not math.isnan(x[j]):
                    _add_input(b, j, z[j], newest, windows, missing, sums)
            if (i + 1) * steps // known > i * steps // known:
                _find(b, newest, stored, missing, sums, latest, found[first:last], ends[1, first:last])
                after = _valued(found[first:last], of_experts[first:last])
                some = order[begin : i + 1] if turn == 0 else order[known - 1 - i : known - begin]
                _divide((after - before) / orders, some, contributions)
                before, begin = after, i + 1


@jit
def _divide(change: float, some: NDArray[np.int64], contributions: NDArray[np.float64]) -> None:
    """Divide a change among groups that became known together, in proportion to their contributions."""
    total = 0.0
    for g in some:
        total += abs(contributions[g])
    for g in some:
        contributions[g] += change * (abs(contributions[g]) / total if total > 0.0 else 1.0 / some.shape[0])


@jit
def _valued(predictions: NDArray[np.float64], of_experts: NDArray[np.float64]) -> float:
    """Return the sum of the predictions of some experts, each times its slope."""
    total = 0.0
    for e in range(predictions.shape[0]):
        for c in range(predictions.shape[1]):
            total += of_experts[e, c] * predictions[e, c]
    return total


@jit
def _sort(groups: NDArray[np.int64], members: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
    """Write the inputs sorted by group, and the place of the first of each group."""
    for g in range(starts.shape[0]):
        starts[g] = 0
    for j in range(groups.shape[0]):
        starts[groups[j]] += 1
    total = 0
    for g in range(starts.shape[0]):
        total += starts[g]
        starts[g] = total
    for j in range(groups.shape[0] - 1, -1, -1):
        starts[groups[j]] -= 1
        members[starts[groups[j]]] = j


@jit_inline
def _next_block(b: Buffers, number: int) -> int:
    """Return the block of the memory with older samples."""
    return number - 1 if number > 0 else (b.config[CAPACITY] - 1) // BLOCK


@jit_inline
def _size_of_block(b: Buffers, number: int, newest: int, measured: int) -> int:
    """Return how many samples of a block belong to a window."""
    last = newest if measured == 0 else min((number + 1) * BLOCK, b.config[CAPACITY]) - 1
    return int(last - number * BLOCK + 1)


@jit_inline
def _add_input(
    b: Buffers, j: int, z: Real, newest: int, windows: tuple[int, int], missing: bool, sums: Reals
) -> None:
    """Add the squared differences of an input, from the samples in the windows, to their distances."""
    number, measured, scale = newest // BLOCK, 0, b.entry[METRIC, j]
    while measured < max(windows[0], windows[1]):
        part, others = sums[:, number * BLOCK : (number + 1) * BLOCK], b.memory_x[number, j]
        if missing:
            _add_present(others, z, scale, part[0], part[1], part[2])
        else:
            if measured < windows[0]:
                _add(others, z, sums.dtype.type(1.0), part[0])
            _add(others, z, scale, part[1])
        measured += _size_of_block(b, number, newest, measured)
        number = _next_block(b, number)


@jit
def _add(others: Reals, z: Real, scale: Real, out: Reals) -> None:
    for k in range(BLOCK):
        out[k] += scale * ((z - others[k]) * (z - others[k]))


@jit
def _add_present(
    others: Reals, z: Real, scale: Real, of_inputs: Reals, of_network: Reals, present: Reals
) -> None:
    zero, one = present.dtype.type(0.0), present.dtype.type(1.0)
    for k in range(BLOCK):
        square = (z - others[k]) * (z - others[k])
        known = square == square
        of_inputs[k] += square if known else zero
        of_network[k] += scale * square if known else zero
        present[k] += one if known else zero


@jit_inline
def _find(
    b: Buffers,
    newest: int,
    stored: int,
    missing: bool,
    sums: Reals,
    latest: NDArray[np.int64],
    found: NDArray[np.float64],
    base: NDArray[np.float64],
) -> None:
    """Write the predictions of the neighbours by the inputs that are known, as `predict_neighbours`.

    Without missing values all distances lack the same factor, which votes do not depend on. `latest` has the
    places of the latest neighbours, (4, 10): most of them stay, and then few other samples are near enough.
    """
    if missing:
        inputs = sums.dtype.type(b.sizes[0])
        for k in range(sums.shape[1]):
            factor = inputs / sums[2, k] if sums[2, k] > 0.0 else math.nan
            b.distances[0, k], b.distances[1, k] = sums[0, k] * factor, sums[1, k] * factor
    for metric in range(2):
        best, begin = b.nearest[2 * metric : 2 * metric + 2], 0
        for i in range(best.shape[1]):
            best[DISTANCE, i] = math.inf
        for e in range(len(TABLE)):
            if TABLE[e][0] == metric:
                wanted = min(stored, neighbour_window(b.sizes[0], TABLE[e][1]))
                distances = b.distances[metric] if missing else sums[metric]
                for i in range(latest.shape[1]):
                    if latest[e, i] >= 0:
                        _insert(best, distances[latest[e, i]], latest[e, i])
                _select(b, distances, best, newest, begin, wanted)
                for i in range(latest.shape[1]):
                    latest[e, i] = int(best[PLACE, i]) if best[DISTANCE, i] < math.inf else -1
                begin = wanted
                vote(b, best, TABLE[e][2], found[e])
                if math.isnan(found[e, 0]):  # a regression without neighbours
                    assign(found[e], base[e])


@jit_inline
def _select(
    b: Buffers, distances: Reals, best: NDArray[np.float64], newest: int, begin: int, end: int
) -> None:
    """Insert the samples of a window into the list of the nearest; most blocks have no near sample."""
    number, measured, last = newest // BLOCK, 0, best.shape[1] - 1
    while measured < end:
        first, size = number * BLOCK, _size_of_block(b, number, newest, measured)
        part, worst = distances[first : first + BLOCK], distances.dtype.type(best[DISTANCE, last])
        if measured + size > begin and _has_near(part, worst):
            place = first + size - 1 - max(begin - measured, 0)
            before = first + size - 1 - min(size, end - measured)
            while place > before:
                if distances[place] < best[DISTANCE, last]:
                    _insert(best, distances[place], place)
                place -= 1
        measured += size
        number = _next_block(b, number)


@jit
def _insert(best: NDArray[np.float64], distance: Real, place: int) -> None:
    """Insert a sample into the list of the nearest, unless it is there."""
    at = best.shape[1] - 1
    if not distance < best[DISTANCE, at]:
        return
    for i in range(at):
        if best[PLACE, i] == place and best[DISTANCE, i] < math.inf:
            return
    while at > 0 and best[DISTANCE, at - 1] > distance:
        best[DISTANCE, at], best[PLACE, at] = best[DISTANCE, at - 1], best[PLACE, at - 1]
        at -= 1
    best[DISTANCE, at], best[PLACE, at] = distance, place


@jit
def _has_near(distances: Reals, worst: Real) -> bool:
    """Return whether a sample of a block is nearer than a distance."""
    near = np.int32(0)
    for k in range(BLOCK):
        near += np.int32(1) if distances[k] < worst else np.int32(0)
    return bool(near > 0)
