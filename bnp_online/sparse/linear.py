"""Groups of sparse linear members, and their hedge, compiled."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit_inline
from .constants import DAMPING, GROUP_ETA, GROUP_LOSS, GROUP_SHARE, RATES
from .state import CLASSES, MEMBERS, OUT_DELTA, OUT_LINEAR, OUT_MEMBERS, REGRESSION, Combined, Reals, State

#: Bounds of the error of a regression (Huber's δ), and of its standardized targets.
ERROR_CLIP = 5.0
#: Number of values in a partial sum of outputs. One long chain of additions would take more time.
_AT_ONCE = 4


@jit_inline
def outputs_of(s: State | Combined) -> int:
    """Return the number of outputs."""
    return 1 if s.config[REGRESSION] else int(s.scalars[CLASSES])


@jit_inline
def run_group(
    s: State,
    group: int,
    weights: Reals,
    rows: NDArray[np.int64],
    amounts: NDArray[np.float64],
    count: int,
    offset: int,
) -> None:
    """Write the predictions of a group's members, and of the group, to ``s.outputs``.

    Classes for which the rows have no room have a bias alone. A regression's predictions are in standardized
    units. `offset` is a row of ``s.outputs`` that is added to the
    members' outputs, or −1.
    """
    outs, width, n = outputs_of(s), weights.shape[1] // MEMBERS, s.z.shape[0]
    wide = min(outs, width)
    mixed = s.outputs[OUT_LINEAR + group]
    first = OUT_MEMBERS + group * MEMBERS
    for r in range(MEMBERS):
        for c in range(outs):
            total = s.bias[group, r, c] + (s.outputs[offset, c] if offset >= 0 else 0.0)
            for k in range(n):
                total += s.number_weights[group, r, c, k] * s.z[k]
            s.outputs[first + r, c] = total
    done = count - count % _AT_ONCE
    for e in range(0, done, _AT_ONCE):
        i, j, k, m = rows[e], rows[e + 1], rows[e + 2], rows[e + 3]
        x, y, u, v = amounts[e], amounts[e + 1], amounts[e + 2], amounts[e + 3]
        for r in range(MEMBERS):
            for c in range(wide):
                at = r * width + c
                s.outputs[first + r, c] += (weights[i, at] * x + weights[j, at] * y) + (
                    weights[k, at] * u + weights[m, at] * v
                )
    for e in range(done, count):
        for r in range(MEMBERS):
            for c in range(wide):
                s.outputs[first + r, c] += weights[rows[e], r * width + c] * amounts[e]
    for c in range(outs):
        mixed[c] = 0.0
    for r in range(MEMBERS):
        p = s.outputs[first + r]
        if not s.config[REGRESSION]:
            _softmax(p, outs)
        for c in range(outs):
            mixed[c] += s.shares[group, r] * p[c]


@jit_inline
def _softmax(p: NDArray[np.float64], outs: int) -> None:
    top, whole = p[0], 0.0
    for c in range(outs):
        top = max(top, p[c])
    for c in range(outs):
        p[c] = math.exp(p[c] - top)
        whole += p[c]
    for c in range(outs):
        p[c] /= whole


@jit_inline
def judge_group(s: State, group: int, y: float, error: float) -> None:
    """Update the hedge of a group by the losses of its members; `error` is the scale of a regression's."""
    best, total = math.inf, 0.0
    for r in range(MEMBERS):
        p = s.outputs[OUT_MEMBERS + group * MEMBERS + r]
        if s.config[REGRESSION]:
            loss = min(abs(y - p[0]) / max(error, 1e-9), GROUP_LOSS)
        else:
            loss = min(-math.log(max(p[int(y)], 1e-12)), GROUP_LOSS)
        s.outputs[OUT_DELTA + r, 0] = loss
        best = min(best, loss)
    for r in range(MEMBERS):
        s.shares[group, r] *= math.exp(-GROUP_ETA * (s.outputs[OUT_DELTA + r, 0] - best))
        total += s.shares[group, r]
    for r in range(MEMBERS):
        s.shares[group, r] = (1.0 - GROUP_SHARE) * s.shares[group, r] / total + GROUP_SHARE / MEMBERS


@jit_inline
def step_group(
    s: State,
    group: int,
    weights: Reals,
    scales: Reals,
    rows: NDArray[np.int64],
    amounts: NDArray[np.float64],
    count: int,
    y: float,
    weight: float,
    norm: float,
) -> None:
    """Take one step of each member: first the accumulators by the group's error, then the weights."""
    outs, width, n = outputs_of(s), weights.shape[1] // MEMBERS, s.z.shape[0]
    wide = min(outs, width)
    mixed, squared = s.outputs[OUT_LINEAR + group], 0.0
    for c in range(outs):
        error = _error(s, mixed, c, y)
        squared += error * error
    squared *= weight
    s.bias_scales[group] += squared
    for k in range(n):
        s.number_scales[group, k] += squared * s.z[k] * s.z[k]
    for e in range(count):
        scales[rows[e]] += squared * amounts[e] * amounts[e]
    of_bias = 1.0 / math.sqrt(DAMPING + s.bias_scales[group])
    for r in range(MEMBERS):
        p = s.outputs[OUT_MEMBERS + group * MEMBERS + r]
        for c in range(outs):
            step = weight * RATES[r] / math.sqrt(max(norm, 1.0)) * _error(s, p, c, y)
            s.outputs[OUT_DELTA + r, c] = step
            s.bias[group, r, c] -= step * of_bias
    for k in range(n):
        u = s.z[k] / math.sqrt(DAMPING + s.number_scales[group, k])
        for r in range(MEMBERS):
            for c in range(outs):
                s.number_weights[group, r, c, k] -= s.outputs[OUT_DELTA + r, c] * u
    for e in range(count):
        row = weights[rows[e]]
        u = amounts[e] / math.sqrt(DAMPING + scales[rows[e]])
        for r in range(MEMBERS):
            for c in range(wide):
                row[r * width + c] -= s.outputs[OUT_DELTA + r, c] * u


@jit_inline
def _error(s: State, p: NDArray[np.float64], c: int, y: float) -> float:
    """Return the gradient of the loss at an output."""
    if s.config[REGRESSION]:
        return float(min(max(p[0] - y, -ERROR_CLIP), ERROR_CLIP))
    return float(p[c] - (1.0 if c == int(y) else 0.0))
