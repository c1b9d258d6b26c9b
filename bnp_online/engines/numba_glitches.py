"""Bounds of values: one absurd value of a feature or of the target does not ruin a model.

From its 20th value, a feature with a spread is clipped to ``μ ± max(10 σ, 2 L)``, where L is the largest
deviation from the mean that was admitted. The bound grows with what it admits, so a change of level and a
heavy tail are followed. At the 20th value the moments are computed anew from the first 20 values, clipped to
the median ± 15 median absolute deviations (not clipped where these are 0).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit
from ..mixture import BOUND_DEVIATIONS, BOUND_GROWTH, FIRST_DEVIATIONS, FIRST_VALUES
from .numba_buffers import BOUNDED, FIRST, JOINED, LARGEST, MEAN, MEAN_BEFORE, VALUES, VAR
from .numba_kernels import assign


@jit
def bound(columns: NDArray[np.float64], x: NDArray[np.float64], order: NDArray[np.float64]) -> None:
    """Write the bounded values of a sample to ``columns[BOUNDED]``; NaN stays NaN.

    Parameters
    ----------
    columns : float64 (30, n)
        `Buffers.inputs` or `Buffers.target`.
    x : float64 (n,)
        The values.
    order : float64 (≥ 20,)
        Working space.
    """
    if _ordinary(columns, x):
        assign(columns[BOUNDED], x)
        return
    for j in range(x.shape[0]):
        value, var, seen = x[j], columns[VAR, j], columns[VALUES, j]
        if not math.isnan(value):
            if seen >= FIRST_VALUES and var > 0.0:
                deviation = value - columns[MEAN, j]
                if deviation * deviation > BOUND_DEVIATIONS**2 * var:  # rare: no root for most values
                    most = max(BOUND_DEVIATIONS * math.sqrt(var), BOUND_GROWTH * columns[LARGEST, j])
                    value = min(max(value, columns[MEAN, j] - most), columns[MEAN, j] + most)
            elif seen == FIRST_VALUES - 1:
                columns[FIRST + FIRST_VALUES - 1, j] = value
                low, high = _limits(columns, j, order)
                value = min(max(value, low), high)
        columns[BOUNDED, j] = value


@jit
def _ordinary(columns: NDArray[np.float64], x: NDArray[np.float64]) -> bool:
    """Return whether no value is missing, among the first of its feature, or far from its mean."""
    mean, var, seen = columns[MEAN], columns[VAR], columns[VALUES]
    unusual = 0
    for j in range(x.shape[0]):  # without a branch, it is vectorized
        deviation = x[j] - mean[j]
        within = deviation * deviation <= BOUND_DEVIATIONS**2 * var[j]
        unusual += not (within & (seen[j] >= FIRST_VALUES))
    return unusual == 0


@jit
def revise(columns: NDArray[np.float64], order: NDArray[np.float64]) -> None:
    """Compute the moments of each column anew at its 20th value, which they have just counted.

    Parameters
    ----------
    columns, order
        As for `bound`, which comes before.
    """
    due, seen = 0, columns[VALUES]
    for j in range(columns.shape[1]):
        due += seen[j] == FIRST_VALUES - 1
    if due == 0:
        return
    for j in range(columns.shape[1]):
        if columns[VALUES, j] != FIRST_VALUES - 1 or math.isnan(columns[BOUNDED, j]):
            continue
        low, high = _limits(columns, j, order)
        mean, var = 0.0, 0.0  # of the samples before the first value: each counts as 0
        for i in range(FIRST_VALUES):
            share = 1.0 / (columns[JOINED, j] + i + 1.0)
            difference = min(max(columns[FIRST + i, j], low), high) - mean
            var = (1.0 - share) * (var + share * difference * difference)
            mean += share * difference
        columns[MEAN, j], columns[VAR, j] = mean, var


@jit
def _limits(columns: NDArray[np.float64], j: int, order: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median ± 15 median absolute deviations of the first values of a column."""
    for i in range(FIRST_VALUES):
        _place_in_order(order, i, columns[FIRST + i, j])
    half = FIRST_VALUES // 2
    median = (order[half - 1] + order[half]) / 2.0
    for i in range(FIRST_VALUES):
        _place_in_order(order, i, abs(columns[FIRST + i, j] - median))
    most = FIRST_DEVIATIONS * (order[half - 1] + order[half]) / 2.0
    return (median - most, median + most) if most > 0.0 else (-math.inf, math.inf)


@jit
def _place_in_order(order: NDArray[np.float64], count: int, value: float) -> None:
    """Insert a value into an ascending list of `count` values."""
    at = count
    while at > 0 and order[at - 1] > value:
        order[at] = order[at - 1]
        at -= 1
    order[at] = value


@jit
def admit(columns: NDArray[np.float64], order: NDArray[np.float64]) -> None:
    """Count the bounded values of a sample that was learned.

    Parameters
    ----------
    columns, order
        As for `bound`.
    """
    if _admit_ordinary(columns):
        return
    for j in range(columns.shape[1]):
        value = columns[BOUNDED, j]
        if math.isnan(value):
            continue
        count = int(columns[VALUES, j])
        if count < FIRST_VALUES - 1:
            columns[FIRST + count, j] = value
        elif count == FIRST_VALUES - 1:
            low, high = _limits(columns, j, order)
            for i in range(FIRST_VALUES):
                columns[FIRST + i, j] = min(max(columns[FIRST + i, j], low), high)
                deviation = abs(columns[FIRST + i, j] - columns[MEAN, j])
                columns[LARGEST, j] = max(columns[LARGEST, j], deviation)
        else:
            columns[LARGEST, j] = max(columns[LARGEST, j], abs(value - columns[MEAN_BEFORE, j]))
        columns[VALUES, j] = count + 1


@jit
def _admit_ordinary(columns: NDArray[np.float64]) -> bool:
    """Count the values if none is missing or among the first of its feature; return whether it is so."""
    values, mean, largest, seen = columns[BOUNDED], columns[MEAN_BEFORE], columns[LARGEST], columns[VALUES]
    unusual = 0
    for j in range(columns.shape[1]):
        unusual += not ((values[j] == values[j]) & (seen[j] >= FIRST_VALUES))
    if unusual > 0:
        return False
    for j in range(columns.shape[1]):
        largest[j] = max(largest[j], abs(values[j] - mean[j]))
        seen[j] += 1.0
    return True
