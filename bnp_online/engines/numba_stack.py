"""Stack: a log-linear combination of the experts, learned by online Newton steps.

With ``p_k`` the prediction of expert k and q that of the hedge, for a classification::

    f_k(c) = log(p_k(c) + 1e-3)        f_q(c) = log(q(c) + 1e-3)
    s = softmax(f_q + Σ_k a_k f_k + a_q f_q)

and after the label y, with ``g = Σ_c s(c) f(c) − f(y)``::

    h = R g,   r = λ + gᵀh,   a ← a − h/r,   R ← (R − h hᵀ/r)/λ,   if tr R > D/30: R ← R (D/30)/tr R

For a regression, with ``scale = max(E, 1e-3) σ_y``, ``f_k = (p_k − q)/scale`` and ``f_q = 1``::

    s = clip(q + scale aᵀf),   e = clip((y − q)/scale − aᵀf, ±5),   h = R f,   r = λ + fᵀh,   a ← a + h e/r

Above 128 classes, those with ``q ≤ 1e-4`` keep q; the others share the rest by the stack.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit
from ..mixture import (
    STACK_ERROR_CLIP,
    STACK_FROM,
    STACK_LEAST,
    STACK_MOST_CLASSES,
    STACK_RETENTION,
    STACK_SCALE_FLOOR,
    STACK_SMOOTHING,
    STACK_TRACE,
)
from .numba_buffers import (
    AT_STEP,
    COEFFICIENTS,
    DIRECTION,
    ERROR_SCALE,
    GRADIENT,
    HEDGED,
    HIGH,
    INVERSE,
    KNOWN_CLASSES,
    LOW,
    REGRESSION,
    STACKED,
    TARGET_VAR,
    Buffers,
)


@jit
def stack(b: Buffers, facts: NDArray[np.float64]) -> None:
    """Write the prediction of the stack to ``b.outputs[STACKED]``; an unsound expert counts as the hedge."""
    if b.config[REGRESSION]:
        _stack_number(b, facts)
    else:
        _stack_classes(b)


@jit
def _stack_number(b: Buffers, facts: NDArray[np.float64]) -> None:
    size = b.stack.shape[1]
    hedged, scale = b.outputs[HEDGED, 0], scale_of_errors(b, facts)
    total = b.stack[COEFFICIENTS, size - 1]
    for k in range(size - 1):
        difference = 0.0
        if scale > 0.0 and not math.isnan(b.outputs[k, 0]):
            difference = (b.outputs[k, 0] - hedged) / scale
        b.outputs[size - 1 + k, 0] = difference
        total += b.stack[COEFFICIENTS, k] * difference
    b.outputs[2 * size - 2, 0] = 1.0
    b.outputs[STACKED, 0] = clip_to_range(facts, hedged + scale * total)


@jit
def clip_to_range(facts: NDArray[np.float64], value: float) -> float:
    """Clip a prediction to the range of targets seen, widened by half."""
    margin = (facts[HIGH] - facts[LOW]) / 4.0
    return float(min(max(value, facts[LOW] - margin), facts[HIGH] + margin))


@jit
def scale_of_errors(b: Buffers, facts: NDArray[np.float64]) -> float:
    """Return the scale of errors."""
    return float(max(b.scalars[ERROR_SCALE], STACK_SCALE_FLOOR) * math.sqrt(facts[TARGET_VAR]))


@jit
def _chosen(b: Buffers, c: int) -> bool:
    """Return whether the stack decides about a class."""
    return bool(b.outputs.shape[1] <= STACK_MOST_CLASSES or b.outputs[HEDGED, c] > STACK_LEAST)


@jit
def _stack_classes(b: Buffers) -> None:
    size, classes = b.stack.shape[1], b.outputs.shape[1]
    hedged, stacked = b.outputs[HEDGED], b.outputs[STACKED]
    top, mass = -math.inf, 0.0
    for c in range(classes):
        stacked[c] = hedged[c]
        if not _chosen(b, c):
            continue
        mass += hedged[c]
        of_hedge = math.log(hedged[c] + STACK_SMOOTHING)
        total = (1.0 + b.stack[COEFFICIENTS, size - 1]) * of_hedge
        for k in range(size - 1):
            p = b.outputs[k, c]
            feature = of_hedge if math.isnan(b.outputs[k, 0]) else math.log(p + STACK_SMOOTHING)
            b.outputs[size - 1 + k, c] = feature
            total += b.stack[COEFFICIENTS, k] * feature
        b.outputs[2 * size - 2, c] = of_hedge
        stacked[c] = total
        top = max(top, total)
    whole = 0.0
    for c in range(classes):
        if _chosen(b, c):
            stacked[c] = math.exp(stacked[c] - top)
            whole += stacked[c]
    for c in range(classes):
        if _chosen(b, c):
            stacked[c] *= mass / whole


@jit
def update_stack(b: Buffers, facts: NDArray[np.float64], y: float) -> None:
    """Take one step of the stack on a label or a target, with the features of its prediction."""
    size = b.stack.shape[1]
    gradient = b.stack[GRADIENT]
    if b.config[REGRESSION]:
        if facts[AT_STEP] <= STACK_FROM:
            return
        scale, predicted = scale_of_errors(b, facts), 0.0
        for k in range(size):
            gradient[k] = b.outputs[size - 1 + k, 0]
            predicted += b.stack[COEFFICIENTS, k] * gradient[k]
        error = (y - b.outputs[HEDGED, 0]) / scale - predicted
        _solve(b, min(max(error, -STACK_ERROR_CLIP), STACK_ERROR_CLIP))
        return
    label = int(y)
    if facts[KNOWN_CLASSES] < 2 or not _chosen(b, label):
        return
    mass = 0.0
    for c in range(b.outputs.shape[1]):
        if _chosen(b, c):
            mass += b.outputs[STACKED, c]
    for k in range(size):
        feature = b.outputs[size - 1 + k]
        total = -feature[label]
        for c in range(feature.shape[0]):
            if _chosen(b, c):
                total += b.outputs[STACKED, c] / mass * feature[c]
        gradient[k] = total
    _solve(b, -1.0)


@jit
def _solve(b: Buffers, error: float) -> None:
    """Take the step along the gradient in ``b.stack[GRADIENT]``, and update the inverse of the curvature."""
    size = b.stack.shape[1]
    gradient, direction = b.stack[GRADIENT], b.stack[DIRECTION]
    divisor = STACK_RETENTION
    for i in range(size):
        total = 0.0
        for j in range(size):
            total += b.stack[INVERSE + i, j] * gradient[j]
        direction[i] = total
        divisor += total * gradient[i]
    trace = 0.0
    for i in range(size):
        b.stack[COEFFICIENTS, i] += direction[i] * error / divisor
        for j in range(i, size):  # both halves at once: a difference would grow by 1/λ
            moved = (b.stack[INVERSE + i, j] - direction[i] * direction[j] / divisor) / STACK_RETENTION
            b.stack[INVERSE + i, j] = b.stack[INVERSE + j, i] = moved
        trace += b.stack[INVERSE + i, i]
    most = STACK_TRACE * size
    if trace > most:
        for i in range(size):
            for j in range(size):
                b.stack[INVERSE + i, j] *= most / trace
