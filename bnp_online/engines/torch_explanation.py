"""Explanation of a module by its gradients, in one batch: integrated gradients from the means to the input.

The mean of the gradient on the straight line between both, times the difference, has the change of the
output as its sum, as far as the quadrature (Gauss-Legendre) is exact. What it leaves over is divided in
proportion to the sizes of the contributions.

References
----------
M. Sundararajan, A. Taly, Q. Yan, *Axiomatic attribution for deep networks*, ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ..values import Vector
from .base import Explained
from .module_member import ModuleMember
from .numba_pool import LEAST_PROBABILITY
from .torch_step import RowStep

#: Points on the line.
QUICK_POINTS, POINTS = 8, 32


def explain_module(
    step: RowStep,
    predict: Callable[[Vector], Vector],
    x: Vector,
    groups: NDArray[np.int64],
    count: int,
    label: int,
    *,
    quick: bool,
) -> Explained:
    """Explain the prediction of a learner with one module.

    Parameters
    ----------
    step : RowStep
        Tensors of the learner.
    predict : callable
        Returns the prediction for a raw input.
    x, groups, count, label, quick
        As for `Engine.explain`.
    """
    found, base = predict(x), predict(np.full_like(x, math.nan))
    regression = step.target_seen is not None
    label = -1 if regression else int(found.argmax()) if label < 0 else label
    value, baseline = _explained(found, label), _explained(base, label)
    points, weights = np.polynomial.legendre.leggauss(QUICK_POINTS if quick else POINTS)
    z = step.standardized(torch.from_numpy(np.stack([x, np.full_like(x, math.nan)])))
    member = step.members
    assert isinstance(member, ModuleMember)  # noqa: S101 (the caller has one)
    gradient = member.mean_gradient(z, label, 0.5 + 0.5 * points, 0.5 * weights)
    columns: Vector = ((z[0] - z[1]).double() * gradient.double()).cpu().numpy()
    if step.target_seen is not None:  # the prediction is the output in units of the target
        columns *= float(step.target_seen[1].sqrt())
    contributions: Vector = np.bincount(groups, columns, count).astype(np.float64)
    size = np.abs(contributions).sum()
    shares = np.abs(contributions) / size if size > 0.0 else np.full(count, 1.0 / max(count, 1))
    contributions += (value - baseline - contributions.sum()) * shares
    return Explained(label, value, baseline, contributions)


def _explained(prediction: Vector, label: int) -> float:
    """Return the log odds of a class in a prediction, or the prediction of a regression."""
    if label < 0:
        return float(prediction[0])
    rest = max(float(np.delete(prediction, label).sum()), LEAST_PROBABILITY)
    return math.log(max(float(prediction[label]), LEAST_PROBABILITY)) - math.log(rest)
