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
from ..mixture import METRIC_EVERY, METRIC_POWER, neighbour_window
from .numba_buffers import (
    ACTS,
    CLASSES,
    DISTANCE,
    METRIC,
    METRIC_OF,
    MISSING,
    PLACE,
    QUERY,
    RAW_TARGET,
    REGRESSION,
    REMEMBERED,
    SAMPLE_WEIGHT,
    SCALES,
    STEP,
    Buffers,
)
from .numba_kernels import padded

#: Windows and numbers of neighbours; `mixture.NEIGHBOURS` documents them.
_LONG, _SHORT, _MOST, _SOME, _ONE = 1500, 500, 10, 5, 1
_EXPERTS = 3
#: Numbers compared before an early end is considered.
_BLOCK = 64


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
    missing = _place_query(b, x)
    size = b.memory_x.shape[0]
    remembered = int(b.scalars[REMEMBERED])
    count = min(min(remembered, size), neighbour_window(b.sizes[0], _LONG))
    short = min(count, neighbour_window(b.sizes[0], _SHORT))
    b.nearest[:] = math.inf
    for i in range(count):
        place = (remembered - 1 - i) % size
        if missing or b.memory_y[place, MISSING] > 0.0:
            _compare_present(b, place)
        else:
            _compare(b, place)
        if i == short - 1:
            for metric in range(2):
                _vote(b, metric, _SOME, row + _EXPERTS * metric + 2)
    for metric in range(2):
        _vote(b, metric, _ONE, row + _EXPERTS * metric)
        _vote(b, metric, _MOST, row + _EXPERTS * metric + 1)
        if count == 0:
            _vote(b, metric, _SOME, row + _EXPERTS * metric + 2)


@jit
def _place_query(b: Buffers, x: NDArray[np.float64]) -> bool:
    """Copy the standardized input to ``b.scratch[QUERY]``; return whether values are missing (NaN)."""
    n, missing = b.sizes[0], 0
    query, scales = b.scratch[QUERY], b.scratch[SCALES]
    acts, metric = b.scratch[ACTS], b.entry[METRIC]
    for j in range(b.memory_x.shape[1]):
        query[j] = 0.0
        scales[j] = 0.0
    for j in range(n):
        query[j] = acts[j]
        scales[j] = metric[j]
        if math.isnan(x[j]):
            query[j] = math.nan
            missing += 1
    return missing > 0


@jit
def _compare(b: Buffers, place: int) -> None:
    """Compare a remembered sample without missing values."""
    z, scales, other = b.scratch[QUERY], b.scratch[SCALES], b.memory_x[place]
    width = other.shape[0]
    worst, worst_own = b.nearest[DISTANCE, _MOST - 1], b.nearest[2 + DISTANCE, _MOST - 1]
    total, own = 0.0, 0.0
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        part, part_own = z.dtype.type(0.0), z.dtype.type(0.0)
        for j in range(start, end):
            square = (z[j] - other[j]) * (z[j] - other[j])
            part += square
            part_own += square * scales[j]
        total += part
        own += part_own
        if total >= worst and own >= worst_own:
            return
    _insert(b.nearest[:2], total, place)
    _insert(b.nearest[2:], own, place)


@jit
def _compare_present(b: Buffers, place: int) -> None:
    """Compare a remembered sample by the inputs present in both; the distance is scaled to all of them."""
    z, scales, other = b.scratch[QUERY], b.scratch[SCALES], b.memory_x[place]
    n = b.sizes[0]
    total, own, present = 0.0, 0.0, 0
    for j in range(n):
        difference = z[j] - other[j]
        if not math.isnan(difference):
            total += difference * difference
            own += difference * difference * scales[j]
            present += 1
    if present > 0:
        _insert(b.nearest[:2], total * n / present, place)
        _insert(b.nearest[2:], own * n / present, place)


@jit
def _insert(best: NDArray[np.float64], distance: float, place: int) -> None:
    """Insert a sample into a list of the nearest if it is nearer than the last: of ties the newest stays."""
    last = best.shape[1] - 1
    if not distance < best[DISTANCE, last]:
        return
    at = last
    while at > 0 and best[DISTANCE, at - 1] > distance:
        best[DISTANCE, at] = best[DISTANCE, at - 1]
        best[PLACE, at] = best[PLACE, at - 1]
        at -= 1
    best[DISTANCE, at] = distance
    best[PLACE, at] = place


@jit
def _vote(b: Buffers, metric: int, k: int, row: int) -> None:
    """Write the prediction of the k nearest to a row of `outputs`; NaN if a regression has none."""
    best, out = b.nearest[2 * metric : 2 * metric + 2], b.outputs[row]
    regression = b.config[REGRESSION]
    radius = 0.0
    for i in range(k):
        if best[DISTANCE, i] < math.inf:
            radius = best[DISTANCE, i]
    total = 0.0 if regression else 0.5
    for c in range(out.shape[0]):
        out[c] = total / max(b.scalars[CLASSES], 1.0) if c < b.scalars[CLASSES] else 0.0
    if regression:
        out[0] = 0.0
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
