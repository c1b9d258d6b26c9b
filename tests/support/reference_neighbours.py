"""Nearest neighbours from their definition (algorithm.md §6): all distances, sorted, newest first on ties.

The specification leaves these points open:

- In the metric of the network, too, a distance is scaled by the number of coordinates, not by their weights.
- A sample of weight 0 takes its place among the k nearest, and has no vote.
- A regression has no prediction without a vote (no sample in common, or weights of 0 alone).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.support.reference_learner import Array, Layer

Mask = NDArray[np.bool_]


@dataclass
class Remembered:
    """Sample in the memory.

    Attributes
    ----------
    z : array of shape (n,)
        Input as standardized on arrival, for a replay: a missing value is the mean.
    missing : boolean array of shape (n,)
        Which values were missing.
    goal, weight : float
        Class, or standardized target; weight of the sample.
    raw : float
        Class, or target as it was counted.
    """

    z: Array
    missing: Mask
    goal: float
    weight: float
    raw: float


def distance(z: Array, missing: Mask, other: Remembered, scale: Array) -> float:
    """Return the squared distance of scaled inputs; infinity if no coordinate is present in both."""
    both = ~(missing | other.missing)
    if not both.any():
        return math.inf
    difference = (scale * (z - other.z))[both]
    return float(difference @ difference) * len(z) / int(both.sum())


def votes(
    z: Array, missing: Mask, newest: Sequence[Remembered], k: int, scale: Array
) -> list[tuple[float, float]]:
    """Return the vote v and the raw target of each of the k nearest; `newest` is in order of age."""
    distances = [distance(z, missing, each, scale) for each in newest]
    order = sorted(range(len(newest)), key=lambda i: distances[i])  # stable: the newest first on ties
    nearest = [i for i in order if distances[i] < math.inf][:k]
    if not nearest:
        return []
    r = distances[nearest[-1]]
    return [(newest[i].weight / (0.1 + math.sqrt(distances[i] / (r + 1e-9))), newest[i].raw) for i in nearest]


def class_shares(cast: Sequence[tuple[float, float]], seen: int, outputs: int) -> Array:
    """Return p over the classes seen; 0 for an output that no sample had yet."""
    p = np.zeros(outputs)
    p[:seen] = 0.5 / seen
    for v, label in cast:
        p[int(label)] += v
    return np.asarray(p / (0.5 + sum(v for v, _ in cast)))


def mean_target(cast: Sequence[tuple[float, float]]) -> float:
    """Return the mean of the raw targets, weighted by votes; NaN without a vote."""
    total = sum(v for v, _ in cast)
    return sum(v * y for v, y in cast) / total if total >= 2.0**-1022 else math.nan


def own_metric(layers: Sequence[Layer]) -> Array:
    """Return the scale of each coordinate in the metric of a network, (M_jj / mean M)^1.5, M = W₁ᵀW₁."""
    weight = layers[0].weight
    diagonal = np.diag(weight.T @ weight)
    if len(layers) == 1 or not diagonal.any():
        return np.ones(weight.shape[1])
    return np.asarray((diagonal / diagonal.mean()) ** 1.5)
