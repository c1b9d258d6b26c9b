"""Combination of the network's mixture and the two groups: hedge, stack, and the hedge of both, compiled.

The stack is that of `engines.numba_stack`, with three experts.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from ..mixture import (
    ERROR_FLOOR,
    ERROR_RETENTION,
    ETA,
    MAX_LOSS,
    SHARE,
    STACK_ERROR_CLIP,
    STACK_FROM,
    STACK_LEAST,
    STACK_MOST_CLASSES,
    STACK_RETENTION,
    STACK_SCALE_FLOOR,
    STACK_SMOOTHING,
    STACK_TRACE,
)
from .constants import STAGE_ETA, STAGE_SHARE
from .linear import outputs_of
from .state import (
    COEFFICIENTS,
    DIRECTION,
    ERROR_SCALE,
    EXPERTS,
    FEATURES,
    GRADIENT,
    HEDGED,
    INVERSE,
    LOSS,
    MIXED,
    OUT_DENSE,
    OUT_FEATURES,
    OUT_LINEAR,
    REGRESSION,
    SAMPLES,
    STACKED,
    TARGET_HIGH,
    TARGET_LOW,
    TARGET_WEIGHT,
    WEIGHT,
    Combined,
)


@jit
def combine(s: Combined, dense: NDArray[np.float64], given: NDArray[np.float64]) -> None:
    """Write the combined prediction to ``s.outputs[MIXED]``.

    Parameters
    ----------
    s : Combined
        State, after `step.front`.
    dense : float64 (C,)
        Prediction of the network.
    given : float64 (2, C) or (0, 0)
        Earlier predictions of the groups, in place of the present ones; NaN where there is none.
    """
    outs = outputs_of(s)
    for c in range(outs):
        s.outputs[OUT_DENSE, c] = dense[c]
    for group in range(EXPERTS - 1):
        late = given.shape[0] > 0 and not math.isnan(given[group, 0])
        for c in range(outs):
            s.outputs[OUT_DENSE + 1 + group, c] = given[group, c] if late else _prediction(s, group, c, dense)
    for c in range(outs):
        total = 0.0
        for k in range(EXPERTS):
            total += s.hedge[WEIGHT, k] * s.outputs[OUT_DENSE + k, c]
        s.outputs[HEDGED, c] = total
    if s.config[REGRESSION]:
        _stack_number(s)
    else:
        _stack_classes(s, outs)
    for c in range(outs):
        of_hedge, of_stack = s.hedge[WEIGHT, EXPERTS], s.hedge[WEIGHT, EXPERTS + 1]
        s.outputs[MIXED, c] = of_hedge * s.outputs[HEDGED, c] + of_stack * s.outputs[STACKED, c]


@jit_inline
def _prediction(s: Combined, group: int, c: int, dense: NDArray[np.float64]) -> float:
    """Return the prediction of a group; of a regression without a target, that of the network."""
    value = s.outputs[OUT_LINEAR + group, c]
    if not s.config[REGRESSION]:
        return float(value)
    if s.scalars[TARGET_WEIGHT] == 0.0:
        return float(dense[0])
    low, high = _range(s)
    return float(min(max(s.target[0, 0] + math.sqrt(s.target[1, 0]) * value, low), high))


@jit_inline
def _range(s: Combined) -> tuple[float, float]:
    margin = (s.scalars[TARGET_HIGH] - s.scalars[TARGET_LOW]) / 4.0
    return s.scalars[TARGET_LOW] - margin, s.scalars[TARGET_HIGH] + margin


@jit_inline
def _chosen(s: Combined, outs: int, c: int) -> bool:
    return bool(outs <= STACK_MOST_CLASSES or s.outputs[HEDGED, c] > STACK_LEAST)


@jit_inline
def _stack_classes(s: Combined, outs: int) -> None:
    hedged, stacked = s.outputs[HEDGED], s.outputs[STACKED]
    top, mass, whole = -math.inf, 0.0, 0.0
    for c in range(outs):
        stacked[c] = hedged[c]
        if not _chosen(s, outs, c):
            continue
        mass += hedged[c]
        base = math.log(hedged[c] + STACK_SMOOTHING)
        s.outputs[OUT_FEATURES + EXPERTS, c] = base
        total = (1.0 + s.stack[COEFFICIENTS, EXPERTS]) * base
        for k in range(EXPERTS):
            feature = math.log(s.outputs[OUT_DENSE + k, c] + STACK_SMOOTHING)
            s.outputs[OUT_FEATURES + k, c] = feature
            total += s.stack[COEFFICIENTS, k] * feature
        stacked[c] = total
        top = max(top, total)
    for c in range(outs):
        if _chosen(s, outs, c):
            stacked[c] = math.exp(stacked[c] - top)
            whole += stacked[c]
    for c in range(outs):
        if _chosen(s, outs, c):
            stacked[c] *= mass / whole


@jit_inline
def _scale(s: Combined) -> float:
    return float(max(s.scalars[ERROR_SCALE], STACK_SCALE_FLOOR) * math.sqrt(s.target[1, 0]))


@jit_inline
def _stack_number(s: Combined) -> None:
    hedged, scale = s.outputs[HEDGED, 0], _scale(s)
    total = s.stack[COEFFICIENTS, EXPERTS]
    for k in range(EXPERTS):
        difference = (s.outputs[OUT_DENSE + k, 0] - hedged) / scale if scale > 0.0 else 0.0
        s.outputs[OUT_FEATURES + k, 0] = difference
        total += s.stack[COEFFICIENTS, k] * difference
    s.outputs[OUT_FEATURES + EXPERTS, 0] = 1.0
    low, high = _range(s)
    value = hedged + scale * total
    s.outputs[STACKED, 0] = min(max(value, low), high) if s.scalars[TARGET_WEIGHT] > 0.0 else hedged


@jit
def judge(s: Combined, y: float) -> None:
    """Update hedge and stack by the losses of the predictions of `combine`."""
    spread = math.sqrt(s.target[1, 0])
    if s.config[REGRESSION] and not spread > 0.0:
        return
    for k in range(EXPERTS):
        s.hedge[LOSS, k] = _loss(s, OUT_DENSE + k, y, spread)
    s.hedge[LOSS, EXPERTS] = _loss(s, HEDGED, y, spread)
    s.hedge[LOSS, EXPERTS + 1] = _loss(s, STACKED, y, spread)
    _update_stack(s, y)
    if s.config[REGRESSION]:
        own = abs(y - s.outputs[HEDGED, 0]) / spread
        s.scalars[ERROR_SCALE] += (1.0 - ERROR_RETENTION) * (own - s.scalars[ERROR_SCALE])
    _mix(s, 0, EXPERTS, STAGE_ETA, max(STAGE_SHARE, 1.0 / (s.scalars[SAMPLES] + 2.0) ** 2))
    _mix(s, EXPERTS, EXPERTS + 2, ETA, SHARE)


@jit_inline
def _loss(s: Combined, row: int, y: float, spread: float) -> float:
    if s.config[REGRESSION]:
        error = abs(y - s.outputs[row, 0]) / spread
        return float(min(error / max(s.scalars[ERROR_SCALE], ERROR_FLOOR), MAX_LOSS))
    p = s.outputs[row, int(y)]
    return float(min(-math.log(p), MAX_LOSS)) if p > 0.0 else float(MAX_LOSS)


@jit_inline
def _mix(s: Combined, first: int, last: int, eta: float, share: float) -> None:
    best, total = math.inf, 0.0
    for k in range(first, last):
        best = min(best, s.hedge[LOSS, k])
    for k in range(first, last):
        s.hedge[WEIGHT, k] *= math.exp(-eta * (s.hedge[LOSS, k] - best))
        total += s.hedge[WEIGHT, k]
    for k in range(first, last):
        s.hedge[WEIGHT, k] = (1.0 - share) * s.hedge[WEIGHT, k] / total + share / (last - first)


@jit_inline
def _update_stack(s: Combined, y: float) -> None:
    gradient = s.stack[GRADIENT]
    outs = outputs_of(s)
    if s.config[REGRESSION]:
        if s.scalars[SAMPLES] < STACK_FROM:
            return
        scale, predicted = _scale(s), 0.0
        for k in range(FEATURES):
            gradient[k] = s.outputs[OUT_FEATURES + k, 0]
            predicted += s.stack[COEFFICIENTS, k] * gradient[k]
        error = (y - s.outputs[HEDGED, 0]) / scale - predicted
        _solve(s, min(max(error, -STACK_ERROR_CLIP), STACK_ERROR_CLIP))
        return
    label, mass = int(y), 0.0
    if outs < 2 or not _chosen(s, outs, label):
        return
    for c in range(outs):
        if _chosen(s, outs, c):
            mass += s.outputs[STACKED, c]
    for k in range(FEATURES):
        feature = s.outputs[OUT_FEATURES + k]
        total = -feature[label]
        for c in range(outs):
            if _chosen(s, outs, c):
                total += s.outputs[STACKED, c] / mass * feature[c]
        gradient[k] = total
    _solve(s, -1.0)


@jit_inline
def _solve(s: Combined, error: float) -> None:
    gradient, direction = s.stack[GRADIENT], s.stack[DIRECTION]
    divisor, trace, most = STACK_RETENTION, 0.0, STACK_TRACE * FEATURES
    for i in range(FEATURES):
        total = 0.0
        for j in range(FEATURES):
            total += s.stack[INVERSE + i, j] * gradient[j]
        direction[i] = total
        divisor += total * gradient[i]
    for i in range(FEATURES):
        s.stack[COEFFICIENTS, i] += direction[i] * error / divisor
        for j in range(i, FEATURES):
            moved = (s.stack[INVERSE + i, j] - direction[i] * direction[j] / divisor) / STACK_RETENTION
            s.stack[INVERSE + i, j] = s.stack[INVERSE + j, i] = moved
        trace += s.stack[INVERSE + i, i]
    if trace > most:
        for i in range(FEATURES):
            for j in range(FEATURES):
                s.stack[INVERSE + i, j] *= most / trace
