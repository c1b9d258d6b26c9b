"""Attribution of the mixture's prediction to the predictions of its experts.

The explained number F is the log odds of a class, or the prediction of a regression. Between a base and an
input, the experts' logits o_k move in a straight line (predictions p_k without logits do so themselves). The
*slope* of an expert is the mean of ``∂F/∂o_k`` on this line (Gauss-Legendre). The slopes times the
differences have the sum ``F(input) − F(base)``, as far as the quadrature is exact.

References
----------
R. Aumann, L. Shapley, *Values of Non-Atomic Games*, 1974; M. Sundararajan, A. Taly, Q. Yan, *Axiomatic
attribution for deep networks*, ICML 2017: the mean of the gradient on the line.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit_inline
from ..mixture import STACK_LEAST, STACK_MOST_CLASSES, STACK_SMOOTHING
from .numba_buffers import COEFFICIENTS, HIGH, LOW, REGRESSION, WEIGHT, Buffers
from .numba_stack import scale_of_errors

#: Least probability of a class, and of all others together: log odds stay within ±27.6.
LEAST_PROBABILITY = 1e-12
#: Points and weights of the quadrature on [0, 1].
_POINTS = tuple((0.5 + 0.5 * np.polynomial.legendre.leggauss(8)[0]).tolist())
_WEIGHTS = tuple((0.5 * np.polynomial.legendre.leggauss(8)[1]).tolist())
# Rows of working space: predictions of hedge and stack, gradient with respect to that of the hedge.
_HEDGED, _STACKED, _OF_HEDGED = range(3)


@jit_inline
def objective(b: Buffers, mixed: NDArray[np.float64], label: int) -> float:
    """Return the log odds of a class in a prediction, or the prediction of a regression."""
    if b.config[REGRESSION]:
        return float(mixed[0])
    rest = 0.0
    for c in range(mixed.shape[0]):
        rest += mixed[c] if c != label else 0.0
    return math.log(max(mixed[label], LEAST_PROBABILITY)) - math.log(max(rest, LEAST_PROBABILITY))


@jit_inline
def slopes(
    b: Buffers,
    facts: NDArray[np.float64],
    label: int,
    ends: NDArray[np.float64],
    logits: NDArray[np.float64],
    point: NDArray[np.float64],
    gradient: NDArray[np.float64],
    space: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Write the slope of each expert.

    Parameters
    ----------
    b, facts : Buffers, float64
        The learner, and the facts of the row.
    label : int
        The class; −1 for a regression.
    ends, logits : float64 (2, K, C)
        Predictions at the input and at the base; outputs before the softmax, NaN where an expert has none.
    point, gradient, space : float64 (K, C), (K, C), (3, C)
        Working space.
    out : float64 (K, C)
        Receives the slopes: with respect to the logits, or to the predictions of an expert without logits.
    """
    experts, classes = ends.shape[1], ends.shape[2]
    for k in range(experts):
        for c in range(classes):
            out[k, c] = 0.0
    for i in range(len(_POINTS)):
        t, weight = _POINTS[i], _WEIGHTS[i]
        for k in range(experts):
            _move(t, ends[:, k], logits[:, k], b.config[REGRESSION] == 0, point[k])
        if b.config[REGRESSION]:
            _gradient_of_number(b, facts, point, gradient)
        else:
            _gradient_of_classes(b, label, point, gradient, space)
        for k in range(experts):
            of_logits, along = b.config[REGRESSION] == 0 and _has_logits(logits[:, k]), 0.0
            for c in range(classes):
                along += point[k, c] * gradient[k, c]
            for c in range(classes):
                slope = point[k, c] * (gradient[k, c] - along) if of_logits else gradient[k, c]
                out[k, c] += weight * slope


@jit_inline
def _has_logits(logits: NDArray[np.float64]) -> bool:
    """Return whether an expert has logits at both ends."""
    return not (math.isnan(logits[0, 0]) or math.isnan(logits[1, 0]))


@jit_inline
def _move(
    t: float,
    ends: NDArray[np.float64],
    logits: NDArray[np.float64],
    classifies: bool,
    point: NDArray[np.float64],
) -> None:
    """Write the prediction of an expert at a point between the base (0) and the input (1)."""
    if not (classifies and _has_logits(logits)):
        for c in range(point.shape[0]):
            point[c] = t * ends[0, c] + (1.0 - t) * ends[1, c]
        return
    top, total = -math.inf, 0.0
    for c in range(point.shape[0]):
        point[c] = t * logits[0, c] + (1.0 - t) * logits[1, c]
        top = max(top, point[c])
    for c in range(point.shape[0]):
        point[c] = math.exp(point[c] - top)
        total += point[c]
    for c in range(point.shape[0]):
        point[c] /= total


@jit_inline
def _gradient_of_number(
    b: Buffers, facts: NDArray[np.float64], point: NDArray[np.float64], gradient: NDArray[np.float64]
) -> None:
    """Write the gradient of the prediction of a regression with respect to those of the experts."""
    experts, total, hedged = point.shape[0], 0.0, 0.0
    for k in range(experts):
        total += b.hedge[WEIGHT, k]
        hedged += b.hedge[WEIGHT, k] * point[k, 0]
    hedged /= total
    of_hedge, of_stack, used = 1.0, 0.0, 0.0
    scale = scale_of_errors(b, facts)
    if b.stack.shape[1] > 0:
        of_hedge = b.hedge[WEIGHT, experts]
        moved = hedged + scale * b.stack[COEFFICIENTS, experts]
        for k in range(experts if scale > 0.0 else 0):
            used += b.stack[COEFFICIENTS, k]
            moved += b.stack[COEFFICIENTS, k] * (point[k, 0] - hedged)
        margin = (facts[HIGH] - facts[LOW]) / 4.0
        if facts[LOW] - margin <= moved <= facts[HIGH] + margin:  # else it is clipped
            of_stack = b.hedge[WEIGHT, experts + 1]
    for k in range(experts):
        share = b.hedge[WEIGHT, k] / total
        own = b.stack[COEFFICIENTS, k] if of_stack > 0.0 and scale > 0.0 else 0.0
        gradient[k, 0] = (of_hedge + of_stack * (1.0 - used)) * share + of_stack * own


@jit_inline
def _gradient_of_classes(
    b: Buffers,
    label: int,
    point: NDArray[np.float64],
    gradient: NDArray[np.float64],
    space: NDArray[np.float64],
) -> None:
    """Write the gradient of the log odds of a class with respect to the probabilities of the experts."""
    experts, classes = point.shape
    hedged, stacked, of_hedged = space[_HEDGED], space[_STACKED], space[_OF_HEDGED]
    total, stacks = 0.0, b.stack.shape[1] > 0
    for c in range(classes):
        hedged[c], stacked[c] = 0.0, 0.0
    for k in range(experts):
        total += b.hedge[WEIGHT, k]
        for c in range(classes):
            hedged[c] += b.hedge[WEIGHT, k] * point[k, c]
    for c in range(classes):
        hedged[c] /= total
    of_hedge, of_stack, mass = 1.0, 0.0, 1.0
    if stacks:
        of_hedge, of_stack = b.hedge[WEIGHT, experts], b.hedge[WEIGHT, experts + 1]
        mass = _stack(b, point, hedged, stacked)
    at, rest = of_hedge * hedged[label] + of_stack * stacked[label], 0.0
    for c in range(classes):
        rest += of_hedge * hedged[c] + of_stack * stacked[c] if c != label else 0.0
    slope = 1.0 / max(at, LEAST_PROBABILITY) + 1.0 / max(rest, LEAST_PROBABILITY)
    decides = stacks and _chosen(hedged, label)
    for c in range(classes):
        own = 1.0 if c == label else 0.0
        of_hedged[c] = own * slope * (of_hedge if decides or not stacks else of_hedge + of_stack)
        for k in range(experts):
            gradient[k, c] = 0.0
        if decides and _chosen(hedged, c):
            of_total = slope * of_stack * stacked[label] * (own - stacked[c] / mass)
            of_hedged[c] += (1.0 + b.stack[COEFFICIENTS, experts]) * of_total / (hedged[c] + STACK_SMOOTHING)
            if classes > STACK_MOST_CLASSES:  # the mass of the chosen classes changes
                of_hedged[c] += slope * of_stack * stacked[label] / mass
            for k in range(experts):
                gradient[k, c] = b.stack[COEFFICIENTS, k] * of_total / (point[k, c] + STACK_SMOOTHING)
        for k in range(experts):
            gradient[k, c] += b.hedge[WEIGHT, k] / total * of_hedged[c]


@jit_inline
def _chosen(hedged: NDArray[np.float64], c: int) -> bool:
    """Return whether the stack decides about a class."""
    return bool(hedged.shape[0] <= STACK_MOST_CLASSES or hedged[c] > STACK_LEAST)


@jit_inline
def _stack(
    b: Buffers, point: NDArray[np.float64], hedged: NDArray[np.float64], stacked: NDArray[np.float64]
) -> float:
    """Write the prediction of the stack, as `numba_stack.stack`; return the mass of its classes."""
    experts, top, mass, whole = point.shape[0], -math.inf, 0.0, 0.0
    for c in range(hedged.shape[0]):
        if not _chosen(hedged, c):
            stacked[c] = hedged[c]
            continue
        mass += hedged[c]
        base = math.log(hedged[c] + STACK_SMOOTHING)
        total = (1.0 + b.stack[COEFFICIENTS, experts]) * base
        for k in range(experts):
            total += b.stack[COEFFICIENTS, k] * math.log(point[k, c] + STACK_SMOOTHING)
        stacked[c] = total
        top = max(top, total)
    for c in range(hedged.shape[0]):
        if _chosen(hedged, c):
            stacked[c] = math.exp(stacked[c] - top)
            whole += stacked[c]
    for c in range(hedged.shape[0]):
        if _chosen(hedged, c):
            stacked[c] *= mass / whole
    return mass
