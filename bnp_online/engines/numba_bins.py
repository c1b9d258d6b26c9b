"""Linear model of bins, as an expert of the mixture: a weight for each interval of each feature.

A feature has ten bins, bounded by the deciles of the normal distribution for its standardized value. If its
value is an integer from 0 to 31, such as an hour or a code, that integer has a bin of its own as well. The
model has a row of weights W for each bin, and the outputs ``o = b + Σ W_j`` over the bins j of a sample; a
missing value has none. With δ the gradient at the outputs, times the weight of the sample, and K the number
of bins of the sample, b included::

    G_j ← G_j + ‖δ‖²        W_j ← W_j − r δ / √(K (0.1 + G_j))

The bias follows the same rule. This is the step of BNP on second moments as the curvature of the loss weighs
them, cumulative, and its square root: the input of a bin is 0 or 1.

References
----------
J. Duchi, E. Hazan, Y. Singer, *Adaptive subgradient methods for online learning and stochastic optimization*,
JMLR 12, 2011: the square root of a sum of squared gradients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit
from ..mixture import BIN_DAMPING, BIN_EDGES, BIN_INTEGERS, BIN_RATE
from .numba_buffers import BINS_DELTA, SUMS, Buffers
from .numba_kernels import Reals, assign

#: Rows of weights of a feature: its intervals, then its integers.
INTERVALS = len(BIN_EDGES) + 1
BINS = INTERVALS + BIN_INTEGERS
#: Values of a row that are added at once.
_PART = 8


@jit
def run_bins(b: Buffers, values: NDArray[np.float64], z: Reals) -> int:
    """Write the outputs for a sample to ``b.common[SUMS]``; return the number K of its bins.

    The rows of the bins are the first K values of ``b.live[0]``.

    Parameters
    ----------
    b : Buffers
        The learner.
    values : float64 (n,)
        Bounded values of the sample; NaN marks a missing one.
    z : real (n,)
        The standardized input.
    """
    rows, active = b.live[0], 1
    rows[0] = 0
    for j in range(b.bins.shape[0] // BINS):
        value = values[j]
        if math.isnan(value):
            continue
        start, interval = 1 + j * BINS, 0
        for i in range(len(BIN_EDGES)):
            interval += int(z[j] > BIN_EDGES[i])
        rows[active] = start + interval
        active += 1
        if 0.0 <= value < BIN_INTEGERS and value == math.floor(value):
            rows[active] = start + INTERVALS + int(value)
            active += 1
    sums = b.common[SUMS, : b.bins.shape[1]]
    assign(sums, b.bins[0])
    for k in range(1, active):
        row = b.bins[rows[k]]
        for start in range(0, row.shape[0], _PART):
            for c in range(_PART):
                sums[start + c] += row[start + c]
    return active


@jit
def step_bins(b: Buffers, active: int, weight: float) -> None:
    """Step along the gradient at the outputs, in ``b.common[BINS_DELTA]``.

    Parameters
    ----------
    b : Buffers
        The learner, after `run_bins`.
    active : int
        Number of bins of the sample.
    weight : float
        Weight of the sample.
    """
    real, c = b.bins.dtype.type, b.outputs.shape[1]
    last, delta = b.bins.shape[1] - 1, b.common[BINS_DELTA, : b.bins.shape[1]]
    square, one = real(0.0), real(1.0)
    for i in range(c):
        square += delta[i] * delta[i]
    for i in range(c, last + 1):
        delta[i] = 0.0
    square *= real(weight * weight)
    rate, damping = real(BIN_RATE * weight / math.sqrt(active)), real(BIN_DAMPING)
    for k in range(active):
        row = b.bins[b.live[0, k]]
        row[last] += square
        step = rate * (one / math.sqrt(damping + row[last]))
        for start in range(0, row.shape[0], _PART):
            for i in range(_PART):
                row[start + i] -= step * delta[start + i]
