"""Nearest neighbours in the memory, as experts of the mixture.

For each entry (metric, window, k) of `mixture.NEIGHBOURS`, with ``d_i`` the squared distance of remembered
sample i, r the k-th smallest of them, and ``w_i`` the sample's weight::

    v_i = w_i / (0.1 + √(d_i / (r + 1e-9)))
    p(c) = (½/C + Σ_{y_i = c} v_i) / (½ + Σ v_i)        or, for a regression, Σ v_i y_i / Σ v_i

Without votes, a regression has no prediction.

There are two metrics: that of standardized inputs, and the network's own, in which input j has the weight
``(M_jj / mean M)^3`` with ``M = W₁ᵀ W₁`` of the first layer.

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
from ..mixture import LEAST_VOTES, METRIC_EVERY, METRIC_POWER, NEIGHBOURS, neighbour_window
from .numba_buffers import (
    CAPACITY,
    CLASSES,
    DISTANCE,
    METRIC,
    METRIC_OF,
    MISSING_VALUES,
    ONES,
    PLACE,
    RAW_TARGET,
    REGRESSION,
    REMEMBERED,
    SAMPLE_WEIGHT,
    STEP,
    Buffers,
)
from .numba_kernels import BLOCK, Reals, padded


@jit
def predict_neighbours(b: Buffers, x: NDArray[np.float64], z: Reals, found: NDArray[np.float64]) -> None:
    """Write the predictions of the neighbours for an input.

    Parameters
    ----------
    b : Buffers
        The learner.
    x : float64 (n,)
        The raw input; NaN marks a missing value.
    z : real (n,)
        The standardized input.
    found : float64 (4, C)
        Receives the predictions.
    """
    remembered, capacity = int(b.scalars[REMEMBERED]), b.config[CAPACITY]
    count = min(remembered, capacity)
    newest = (remembered - 1) % capacity
    if count > 0:
        windows = greatest_window(b.sizes[0], 0), greatest_window(b.sizes[0], 1)
        _measure(b, x, z, newest, min(count, windows[0]), min(count, windows[1]))
    for metric in range(2):
        best = b.nearest[2 * metric : 2 * metric + 2]
        for i in range(best.shape[1]):
            best[DISTANCE, i] = math.inf
        begin = 0
        for e in range(len(NEIGHBOURS)):
            if NEIGHBOURS[e][0] == metric:
                window = min(count, neighbour_window(b.sizes[0], NEIGHBOURS[e][1]))
                # Of the places from the newest to 0, then of those from the last to the oldest.
                _select(b.distances[metric], best, newest - begin, max(newest - window, -1))
                last = min(newest - begin, -1) + capacity
                _select(b.distances[metric], best, last, newest - window + capacity)
                begin = window
                vote(b, best, NEIGHBOURS[e][2], found[e])


@jit
def greatest_window(inputs: int, metric: int) -> int:
    """Return the greatest window of the neighbours in a metric."""
    greatest = 0
    for e in range(len(NEIGHBOURS)):
        if NEIGHBOURS[e][0] == metric:
            greatest = max(greatest, neighbour_window(inputs, NEIGHBOURS[e][1]))
    return greatest


@jit
def _measure(
    b: Buffers, x: NDArray[np.float64], z: Reals, newest: int, of_inputs: int, of_network: int
) -> None:
    """Write the squared distances of the newest samples, of a number for each metric, in whole blocks."""
    n, capacity = x.shape[0], b.config[CAPACITY]
    scales, ones = b.entry[METRIC], b.common[ONES, :n]
    missing = b.scalars[MISSING_VALUES] > 0.0
    for j in range(n):
        ones[j] = 1.0
        if math.isnan(x[j]):
            missing = True
    number, measured = newest // BLOCK, 0
    while measured < max(of_inputs, of_network):
        block, first = b.memory_x[number], number * BLOCK
        sums = b.distances[0, first : first + BLOCK]
        sums_network = b.distances[1, first : first + BLOCK]
        if missing:
            present = b.distances[2, first : first + BLOCK]
            _measure_present(block, x, z, ones, sums, present)
            _measure_present(block, x, z, scales, sums_network, present)
        elif measured < of_inputs:
            _measure_both(block, z, scales, sums, sums_network)
        else:
            _measure_network(block, z, scales, sums_network)
        measured += (newest if measured == 0 else min(first + BLOCK, capacity) - 1) - first + 1
        number = number - 1 if number > 0 else (capacity - 1) // BLOCK


@jit
def _measure_both(block: Reals, z: Reals, scales: Reals, sums: Reals, sums_network: Reals) -> None:
    """Write the distances of a block in both metrics, four inputs at a time."""
    for k in range(BLOCK):
        sums[k] = 0.0
        sums_network[k] = 0.0
    whole = z.shape[0] // 4 * 4
    for j in range(0, whole, 4):
        z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
        s0, s1, s2, s3 = scales[j], scales[j + 1], scales[j + 2], scales[j + 3]
        m0, m1, m2, m3 = block[j], block[j + 1], block[j + 2], block[j + 3]
        for k in range(BLOCK):
            d0, d1, d2, d3 = z0 - m0[k], z1 - m1[k], z2 - m2[k], z3 - m3[k]
            q0, q1, q2, q3 = d0 * d0, d1 * d1, d2 * d2, d3 * d3
            sums[k] += (q0 + q1) + (q2 + q3)
            sums_network[k] += (s0 * q0 + s1 * q1) + (s2 * q2 + s3 * q3)
    for j in range(whole, z.shape[0]):
        z0, s0, m0 = z[j], scales[j], block[j]
        for k in range(BLOCK):
            q0 = (z0 - m0[k]) * (z0 - m0[k])
            sums[k] += q0
            sums_network[k] += s0 * q0


@jit
def _measure_network(block: Reals, z: Reals, scales: Reals, sums: Reals) -> None:
    """Write the distances of a block in the network's own metric, four inputs at a time."""
    for k in range(BLOCK):
        sums[k] = 0.0
    whole = z.shape[0] // 4 * 4
    for j in range(0, whole, 4):
        z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
        s0, s1, s2, s3 = scales[j], scales[j + 1], scales[j + 2], scales[j + 3]
        m0, m1, m2, m3 = block[j], block[j + 1], block[j + 2], block[j + 3]
        for k in range(BLOCK):
            d0, d1, d2, d3 = z0 - m0[k], z1 - m1[k], z2 - m2[k], z3 - m3[k]
            sums[k] += (s0 * (d0 * d0) + s1 * (d1 * d1)) + (s2 * (d2 * d2) + s3 * (d3 * d3))
    for j in range(whole, z.shape[0]):
        z0, s0, m0 = z[j], scales[j], block[j]
        for k in range(BLOCK):
            sums[k] += s0 * ((z0 - m0[k]) * (z0 - m0[k]))


@jit
def _measure_present(
    block: Reals, x: NDArray[np.float64], z: Reals, scales: Reals, sums: Reals, present: Reals
) -> None:
    """Write the distances of a block by the inputs present in both, scaled to all; NaN if there is none."""
    zero, one = sums.dtype.type(0.0), sums.dtype.type(1.0)
    for k in range(BLOCK):
        sums[k] = 0.0
        present[k] = 0.0
    for j in range(x.shape[0]):
        if math.isnan(x[j]):
            continue
        others, z0, s0 = block[j], z[j], scales[j]
        for k in range(BLOCK):
            square = (z0 - others[k]) * (z0 - others[k])
            known = square == square
            sums[k] += s0 * square if known else zero
            present[k] += one if known else zero
    for k in range(BLOCK):
        sums[k] *= x.shape[0] / present[k] if present[k] > 0.0 else math.nan


@jit
def _select(distances: Reals, best: NDArray[np.float64], newest: int, before: int) -> None:
    """Insert samples into the list of the nearest, from the newest; of ties the newest stays.

    Parameters
    ----------
    distances : real (S,)
        Distances by place in the memory; NaN marks a sample that is no neighbour.
    best : float64 (2, 10)
        Distances and places of the nearest.
    newest, before : int
        Places of the first sample to insert, and below the last one.
    """
    last = best.shape[1] - 1
    worst = distances.dtype.type(best[DISTANCE, last])
    place = newest
    while place - before >= 4:  # most fours have no near sample
        d0, d1 = distances[place], distances[place - 1]
        d2, d3 = distances[place - 2], distances[place - 3]
        if (d0 < worst) | (d1 < worst) | (d2 < worst) | (d3 < worst):
            for i in range(4):
                _insert(best, distances[place - i], place - i)
            worst = distances.dtype.type(best[DISTANCE, last])
        place -= 4
    while place > before:
        _insert(best, distances[place], place)
        place -= 1


@jit
def _insert(best: NDArray[np.float64], distance: float, place: int) -> None:
    at = best.shape[1] - 1
    if not distance < best[DISTANCE, at]:
        return
    while at > 0 and best[DISTANCE, at - 1] > distance:
        best[DISTANCE, at] = best[DISTANCE, at - 1]
        best[PLACE, at] = best[PLACE, at - 1]
        at -= 1
    best[DISTANCE, at] = distance
    best[PLACE, at] = place


@jit
def vote(b: Buffers, best: NDArray[np.float64], k: int, out: NDArray[np.float64]) -> None:
    """Write the prediction of the k nearest to `out`; NaN if a regression has none."""
    regression = b.config[REGRESSION]
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
        out[c] = out[c] / total if total >= LEAST_VOTES else math.nan


@jit
def renew_metric(b: Buffers) -> None:
    """Compute the network's own metric anew, after every 50th sample."""
    if int(b.scalars[STEP]) % METRIC_EVERY != 0 or b.sizes.shape[0] < 3:
        return
    n, m = b.sizes[0], b.sizes[1]
    params, metric = b.params[b.config[METRIC_OF]], b.entry[METRIC]
    width = padded(n)
    matrix = params[: m * width].reshape(m, width)
    for j in range(n):
        metric[j] = 0.0
    for i in range(m):
        row = matrix[i]
        for j in range(n):
            metric[j] += row[j] * row[j]
    mean = 0.0
    for j in range(n):
        mean += metric[j] / n
    for j in range(n):
        metric[j] = (metric[j] / mean) ** METRIC_POWER if mean > 0.0 else 1.0
