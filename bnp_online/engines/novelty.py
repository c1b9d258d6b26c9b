"""Tail probability of an input: how often an ordinary sample is at least as far from the running means.

An input has the standardized values ``z_j = (x_j − μ_j)/σ_j``, clipped to ±5. Its distance is
``t = mean_j z_j⁴`` over the values that are present: with the fourth power, one absurd value is not lost
among a hundred ordinary ones. The N remembered samples, standardized as they were learned, have the distances
t_i. With these, the tail probability is::

    p = (1 + #{i: t_i ≥ t}) / (N + 1)

If the input is like the remembered ones, p is uniform up to 1/(N + 1), whatever the distribution is. A
learner without a memory takes the χ² distribution of ``Σ z_j²`` for independent normal inputs in its place.

References
----------
V. Vovk, A. Gammerman, G. Shafer, *Algorithmic Learning in a Random World*, 2005: conformal p-values.
E. Wilson, M. Hilferty, *The distribution of chi-square*, PNAS 17, 1931: its approximation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..values import Vector
from .base import INPUT_CLIP


def standardized(x: Vector, mean: Vector, var: Vector) -> Vector:
    """Return values less their means, over their standard deviations; 0 without a spread.

    Parameters
    ----------
    x : array of shape (inputs, …)
        Raw values; NaN marks a missing one.
    mean, var : arrays of shape (inputs,)
        Their moments.
    """
    shape = (-1,) + (1,) * (x.ndim - 1)
    mean, deviation = mean.reshape(shape), np.sqrt(var).reshape(shape)
    z: Vector = np.divide(x - mean, deviation, out=np.zeros(x.shape), where=deviation > 0.0)
    return np.where(np.isnan(x), np.nan, z)


def distances(z: NDArray[Any], axis: int) -> Vector:
    """Return the mean fourth power of standardized values along an axis, without NaN; 0 for no values."""
    present = np.isfinite(z)
    powers = np.clip(np.where(present, z, 0.0), -INPUT_CLIP, INPUT_CLIP) ** 2
    found: Vector = (powers * powers).sum(axis=axis, dtype=np.float64) / np.maximum(present.sum(axis=axis), 1)
    return found


def tail_probability(z: Vector, remembered: Vector) -> float:
    """Return the tail probability of a standardized input, in (0, 1].

    Parameters
    ----------
    z : array
        The input; NaN marks a missing value.
    remembered : array of shape (N,)
        Distances of the remembered samples; of a learner without a memory it is empty.
    """
    if len(remembered):
        # The memory has its values in float32: an equal input has an equal distance up to rounding.
        distance = float(distances(z.reshape(-1), 0)) * (1.0 - 1e-6)
        return float(1 + np.count_nonzero(remembered >= distance)) / (len(remembered) + 1)
    known = z[np.isfinite(z)]
    if not len(known):
        return 1.0
    spread = 2.0 / (9.0 * len(known))
    normal = (float((known * known).mean()) ** (1.0 / 3.0) - (1.0 - spread)) / math.sqrt(spread)
    return max(0.5 * math.erfc(normal / math.sqrt(2.0)), 1e-300)
