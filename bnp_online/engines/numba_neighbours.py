"""Nearest neighbours in the memory, as experts of the mixture.

For each pair (window, k) of `mixture.NEIGHBOURS`, with ``d_i`` the squared distance of remembered sample i, r
the k-th smallest of them, and ``w_i`` the sample's weight::

    v_i = w_i / (0.1 + √(d_i / (r + 1e-9)))
    p(c) = (½/C + Σ_{y_i = c} v_i) / (½ + Σ v_i)        or, for a regression, Σ v_i y_i / Σ v_i

There are two metrics: that of standardized inputs, and the network's own, in which input j has the weight
``(M_jj / mean M)^3`` with ``M = W₁ᵀ W₁`` of the first layer. One pass over the memory serves both.

References
----------
A. Radhakrishnan, D. Beaglehole, P. Pandit, M. Belkin, *Mechanism for feature learning in neural networks and
backpropagation-free machine learning models*, Science 383, 2024: the matrix M.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit
from ..mixture import METRIC_EVERY, METRIC_POWER, NEIGHBOURS, neighbour_window
from .numba_buffers import (
    ACTS,
    CAPACITY,
    CLASSES,
    DISTANCE,
    METRIC,
    METRIC_OF,
    MISSING_VALUES,
    PLACE,
    RAW_TARGET,
    REGRESSION,
    REMEMBERED,
    SAMPLE_WEIGHT,
    STEP,
    Buffers,
)
from .numba_kernels import Real, Reals, padded

#: Remembered samples whose distances are added together, so that their sums stay in the cache.
_BLOCK = 1024


@jit
def predict_neighbours(b: Buffers, x: NDArray[np.float64], row: int) -> None:
    """Write the predictions of the neighbours for a standardized input to the rows of `outputs` from `row`.

    Parameters
    ----------
    b : Buffers
        The learner; the input is in ``b.scratch[ACTS]``.
    x : float64 (n,)
        The raw input; NaN marks a missing value.
    row : int
        Row of the first expert.
    """
    size, remembered = b.distances.shape[1], int(b.scalars[REMEMBERED])
    capacity = b.config[CAPACITY]
    count = min(remembered, capacity)
    _measure(b, x, min(count, size))
    for metric in range(2):
        distances, best = b.distances[metric], b.nearest[2 * metric : 2 * metric + 2]
        for i in range(best.shape[1]):
            best[DISTANCE, i] = math.inf
        begin = 0
        for e in range(len(NEIGHBOURS)):
            window = min(count, neighbour_window(b.sizes[0], NEIGHBOURS[e][0]))
            _select(distances, best, (remembered - 1) % capacity, capacity, begin, window)
            begin = window
            _vote(b, best, NEIGHBOURS[e][1], row + len(NEIGHBOURS) * metric + e)


@jit
def _measure(b: Buffers, x: NDArray[np.float64], count: int) -> None:
    """Write the squared distances of the remembered samples to ``b.distances``, in both metrics."""
    missing = b.scalars[MISSING_VALUES] > 0.0
    for j in range(x.shape[0]):
        if math.isnan(x[j]):
            missing = True
    for start in range(0, count, _BLOCK):
        block = b.distances[:, start : min(start + _BLOCK, count)]
        for i in range(block.shape[0]):
            sums = block[i]
            for k in range(sums.shape[0]):
                sums[k] = 0.0
        for j in range(x.shape[0]):
            others = b.memory_x[j, start : start + block.shape[1]]
            if not missing:
                _add(b.scratch[ACTS, j], b.entry[METRIC, j], others, block[0], block[1])
            elif not math.isnan(x[j]):
                _add_present(b.scratch[ACTS, j], b.entry[METRIC, j], others, block)
        if missing:
            _scale_present(block, x.shape[0])


@jit
def _add(z: Real, scale: Real, others: Reals, sums: Reals, own: Reals) -> None:
    """Add the squared differences in one input."""
    for k in range(others.shape[0]):
        square = (z - others[k]) * (z - others[k])
        sums[k] += square
        own[k] += square * scale


@jit
def _add_present(z: Real, scale: Real, others: Reals, block: Reals) -> None:
    """Add the squared differences in one input where it is present, and count it there."""
    sums, own, present = block[0], block[1], block[2]
    zero, one = block.dtype.type(0.0), block.dtype.type(1.0)
    for k in range(others.shape[0]):
        square = (z - others[k]) * (z - others[k])
        known = square == square
        sums[k] += square if known else zero
        own[k] += square * scale if known else zero
        present[k] += one if known else zero


@jit
def _scale_present(block: Reals, inputs: int) -> None:
    """Scale the distances by the share of inputs present in both; without any it is not a number."""
    for k in range(block.shape[1]):
        scale = inputs / block[2, k] if block[2, k] > 0.0 else math.nan
        block[0, k] *= scale
        block[1, k] *= scale


@jit
def _select(
    distances: Reals, best: NDArray[np.float64], newest: int, capacity: int, begin: int, end: int
) -> None:
    """Insert samples into the list of the nearest, from the newest; of ties the newest stays.

    Parameters
    ----------
    distances : real (S,)
        Distances by place in the memory; NaN marks a sample that is no neighbour.
    best : float64 (2, 10)
        Distances and places of the nearest.
    newest : int
        Place of the newest sample.
    capacity : int
        Number of places.
    begin, end : int
        Samples to insert, counted from the newest.
    """
    last = best.shape[1] - 1
    worst = best[DISTANCE, last]
    for i in range(begin, end):
        place = newest - i if newest >= i else newest - i + capacity
        distance = distances[place]
        if not distance < worst:
            continue
        at = last
        while at > 0 and best[DISTANCE, at - 1] > distance:
            best[DISTANCE, at] = best[DISTANCE, at - 1]
            best[PLACE, at] = best[PLACE, at - 1]
            at -= 1
        best[DISTANCE, at] = distance
        best[PLACE, at] = place
        worst = best[DISTANCE, last]


@jit
def _vote(b: Buffers, best: NDArray[np.float64], k: int, row: int) -> None:
    """Write the prediction of the k nearest to a row of `outputs`; NaN if a regression has none."""
    out, regression = b.outputs[row], b.config[REGRESSION]
    radius = 0.0
    for i in range(k):
        if best[DISTANCE, i] < math.inf:
            radius = best[DISTANCE, i]
    classes = max(b.scalars[CLASSES], 1.0)
    total = 0.0 if regression else 0.5
    for c in range(out.shape[0]):
        out[c] = total / classes if c < classes else 0.0
    for i in range(k):
        if not best[DISTANCE, i] < math.inf:
            break
        place = int(best[PLACE, i])
        vote = b.memory_y[place, SAMPLE_WEIGHT] / (0.1 + math.sqrt(best[DISTANCE, i] / (radius + 1e-9)))
        total += vote
        if regression:
            out[0] += vote * b.memory_y[place, RAW_TARGET]
        else:
            out[int(b.memory_y[place, RAW_TARGET])] += vote
    for c in range(out.shape[0]):
        out[c] = out[c] / total if total > 0.0 else math.nan


@jit
def renew_metric(b: Buffers) -> None:
    """Compute the network's own metric anew, after every 50th sample."""
    if int(b.scalars[STEP]) % METRIC_EVERY != 0 or b.sizes.shape[0] < 3:
        return
    n, m = b.sizes[0], b.sizes[1]
    params, metric = b.params[b.config[METRIC_OF]], b.entry[METRIC]
    width = padded(n)
    matrix = params[: m * width].reshape(m, width)
    mean = 0.0
    for j in range(n):
        total = 0.0
        for i in range(m):
            total += matrix[i, j] * matrix[i, j]
        metric[j] = total
        mean += total / n
    for j in range(n):
        metric[j] = (metric[j] / mean) ** METRIC_POWER if mean > 0.0 else 1.0
