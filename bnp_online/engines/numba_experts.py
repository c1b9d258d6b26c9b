"""Predictions of the experts, and their combination by the hedge and the stack."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit
from ..mixture import ERROR_FLOOR, ERROR_RETENTION, MAX_LOSS, mix, mix_fast, mix_shares
from ..mixture import NEIGHBOURS as TABLE
from .base import INPUT_CLIP
from .numba_bins import run_bins
from .numba_buffers import (
    ACTIVATION,
    ACTS,
    AVERAGE,
    BOUNDED,
    BOUNDED_VALUES,
    CLASSES,
    DELTA,
    ERROR_SCALE,
    HEDGED,
    HIDDEN_PRIOR,
    HIDDEN_WEIGHT,
    LATEST,
    LOSS,
    LOST,
    MEAN,
    MIXED,
    NEIGHBOURS,
    OWN_ERROR,
    PRE,
    PREDICTED,
    RAW,
    REGRESSION,
    STACKED,
    STANDARDIZED,
    STEP,
    TARGET_HIGH,
    TARGET_LOW,
    VAR,
    WEIGHT,
    WEIGHTS,
    Buffers,
)
from .numba_glitches import bound
from .numba_kernels import Reals, assign, forward, multiply, padded, same, softmax, sound, standardize
from .numba_neighbours import predict_neighbours
from .numba_stack import stack, update_stack


@jit
def place(b: Buffers, x: NDArray[np.float64]) -> None:
    """Standardize a raw input into ``b.scratch[ACTS]``."""
    clip = INPUT_CLIP if b.config[STANDARDIZED] else 0.0
    standardize(b.inputs[MEAN], b.inputs[VAR], x, clip, b.scratch[ACTS, : b.sizes[0]])


@jit
def first_logit(b: Buffers) -> int:
    """Return the place of the outputs of the network run last, in ``b.scratch[PRE]``."""
    place = 0
    for layer in range(b.sizes.shape[0] - 1):
        place += b.sizes[layer]
    return place


@jit
def run(b: Buffers, params: Reals) -> bool:
    """Run a network on the standardized input in `scratch`; return whether it is sound."""
    pre, n = b.scratch[PRE], b.sizes[0]
    forward(params, b.sizes, b.config[ACTIVATION], b.scratch[ACTS], pre)
    return sound(b.scratch[ACTS, :n]) and sound(pre[n:])


@jit
def run_linear(b: Buffers, params: Reals) -> bool:
    """Run a linear model on the standardized input in `scratch`; return whether it is sound."""
    n, c, first = b.sizes[0], b.sizes[-1], first_logit(b)
    outs = b.scratch[PRE, first : first + c]
    end = c * padded(n)
    multiply(params[:end].reshape(c, padded(n)), params[end : end + c], b.scratch[ACTS, :n], outs)
    return sound(b.scratch[ACTS, :n]) and sound(outs)


@jit
def _read_output(b: Buffers, found: bool, row: int) -> None:
    """Write the prediction of the network run last to a row of `outputs`; NaN if it is not sound."""
    first = first_logit(b)
    outs = b.scratch[PRE, first : first + b.sizes[-1]]
    if not found:
        b.outputs[row, 0] = math.nan
    elif b.config[REGRESSION]:
        b.outputs[row, 0] = _restore(b, outs[0])
    else:
        softmax(outs, b.scratch[DELTA], b.outputs[row])


@jit
def _restore(b: Buffers, z: float) -> float:
    """Map a regression's output back, clipped to the range of targets seen, widened by half."""
    value = b.target[MEAN, 0] + math.sqrt(b.target[VAR, 0]) * z
    return clip_to_range(b, value)


@jit
def clip_to_range(b: Buffers, value: float) -> float:
    """Clip a prediction to the range of targets seen, widened by half."""
    margin = (b.scalars[TARGET_HIGH] - b.scalars[TARGET_LOW]) / 4.0
    low, high = b.scalars[TARGET_LOW] - margin, b.scalars[TARGET_HIGH] + margin
    return float(min(max(value, low), high))


@jit
def predict_row(b: Buffers, x: NDArray[np.float64]) -> bool:
    """Write the predictions for a raw input to ``b.outputs``; return whether there is one.

    A repeated prediction is not computed again: a sample that is predicted, then learned, runs once.
    """
    if b.scalars[PREDICTED] == b.scalars[STEP] and same(x, b.inputs[LATEST]):
        return True
    values = b.inputs[BOUNDED]
    assign(values, x)
    if b.config[BOUNDED_VALUES]:
        bound(b.inputs, x, b.nearest.reshape(b.nearest.size))
    place(b, values)
    row, networks = 0, b.params.shape[0]
    for k in range(networks):
        if b.trajectories[RAW, k] != 0.0:
            _read_output(b, run(b, b.params[k]), row)
            row += 1
        mean = int(b.trajectories[AVERAGE, k])
        if mean >= 0:
            _read_output(b, run(b, b.average[mean]), row)
            row += 1
    for k in range(b.linear.shape[0]):
        _read_output(b, run_linear(b, b.linear[k]), row)
        row += 1
    if b.config[NEIGHBOURS]:
        predict_neighbours(b, x, row)
        row += len(TABLE)
    if b.bins.shape[0] > 0:
        run_bins(b, values, first_logit(b))
        _read_output(b, True, row)
    if not _pool(b):
        return False
    assign(b.inputs[LATEST], x)
    b.scalars[PREDICTED] = b.scalars[STEP]
    return True


@jit
def _pool(b: Buffers) -> bool:
    """Write the predictions of the hedge, of the stack, and of both; return whether an expert is sound."""
    total, experts = 0.0, b.hedge.shape[1] - 2
    hedged, stacked, mixed = b.outputs[HEDGED], b.outputs[STACKED], b.outputs[MIXED]
    for i in range(hedged.shape[0]):
        hedged[i] = 0.0
    for k in range(experts):
        outputs, weight = b.outputs[k], b.hedge[WEIGHT, k]
        if math.isnan(outputs[0]):
            continue
        total += weight
        for i in range(hedged.shape[0]):
            hedged[i] += weight * outputs[i]
    if total <= 0.0:
        return False
    for i in range(hedged.shape[0]):
        hedged[i] /= total
    if b.stack.shape[1] == 0:
        assign(mixed, hedged)
        return True
    stack(b)
    of_hedge, of_stack = b.hedge[WEIGHT, experts], b.hedge[WEIGHT, experts + 1]
    for i in range(hedged.shape[0]):
        mixed[i] = of_hedge * hedged[i] + of_stack * stacked[i]
    return True


@jit
def _loss(b: Buffers, outputs: NDArray[np.float64], y: float) -> float:
    """Return the loss of a prediction; infinity if it is not sound."""
    if math.isnan(outputs[0]):
        return math.inf
    if b.config[REGRESSION]:
        error = abs(y - outputs[0]) / math.sqrt(max(b.target[VAR, 0], 1e-300))
        return float(min(error / max(b.scalars[ERROR_SCALE], ERROR_FLOOR), MAX_LOSS))
    p = outputs[int(y)]
    return float(min(-math.log(p), MAX_LOSS)) if p > 0.0 else float(MAX_LOSS)


@jit
def mark_unsound(b: Buffers) -> None:
    """Mark each trajectory with a prediction that is not sound: it has diverged."""
    row = 0
    for k in range(b.trajectories.shape[1]):
        lost = 0.0
        if b.trajectories[RAW, k] != 0.0:
            lost += math.isnan(b.outputs[row, 0])
            row += 1
        if b.trajectories[AVERAGE, k] >= 0.0:
            lost += math.isnan(b.outputs[row, 0])
            row += 1
        b.trajectories[LOST, k] = lost


@jit
def take_given(b: Buffers, given: NDArray[np.float64], y: float) -> bool:
    """Put predictions that the experts made earlier in place of those in `outputs`, to judge them.

    An expert whose prediction is NaN counts as the hedge, as one that is not sound. If all are NaN, nothing
    changes: the experts are judged by their predictions now. Hedge and stack combine the predictions with
    their weights of now.

    Returns
    -------
    bool
        Whether hedge and stack can learn: no expert gives a class a probability that was unknown then.
    """
    experts, found = b.hedge.shape[1] - 2, False
    for k in range(experts):
        found = found or not math.isnan(given[k, 0])
    if not found:
        return True
    for k in range(experts):
        assign(b.outputs[k], given[k])
    b.scalars[PREDICTED] = -1.0  # the outputs are not those of now
    _pool(b)
    return bool(b.config[REGRESSION] or b.outputs[HEDGED, int(y)] > 0.0)


@jit
def judge(b: Buffers, y: float) -> None:
    """Write the loss of each expert, of the hedge and of the stack, before the step."""
    experts = b.hedge.shape[1] - 2
    for k in range(experts):
        b.hedge[LOSS, k] = _loss(b, b.outputs[k], y)
    if b.stack.shape[1] > 0:
        b.hedge[LOSS, experts] = _loss(b, b.outputs[HEDGED], y)
        b.hedge[LOSS, experts + 1] = _loss(b, b.outputs[STACKED], y)
    if b.config[REGRESSION]:
        spread = b.target[VAR, 0]
        hedged = b.outputs[HEDGED, 0]
        b.scalars[OWN_ERROR] = abs(y - hedged) / math.sqrt(spread) if spread > 0.0 else -1.0


@jit
def update_experts(b: Buffers, y: float, weight: float, judged: bool) -> None:
    """Update hedge and stack by the losses, after the step; a trajectory that diverged restarts.

    A sample of a new class, or of weight 0, or one that is not to be judged, changes neither.
    """
    experts = b.hedge.shape[1] - 2
    _mark_lost(b)
    new = not b.config[REGRESSION] and y >= b.scalars[CLASSES]
    if b.stack.shape[1] > 0 and (weight == 0.0 or new or not judged):
        _restart(b)
        return
    if b.config[REGRESSION] and b.scalars[OWN_ERROR] < 0.0:  # the targets have no spread yet
        if b.stack.shape[1] > 0:
            _restart(b)
        return
    if b.stack.shape[1] > 0:
        update_stack(b, y)
        mix_shares(b.hedge[WEIGHT, experts:], b.hedge[LOSS, experts:])
    if b.config[REGRESSION]:
        b.scalars[ERROR_SCALE] += (1.0 - ERROR_RETENTION) * (b.scalars[OWN_ERROR] - b.scalars[ERROR_SCALE])
    _hedge(b, experts)
    _restart(b)


@jit
def _hedge(b: Buffers, experts: int) -> None:
    """Update the weights of the experts: with several rates, they are the mean of those of each rate."""
    weights, losses = b.hedge[WEIGHT, :experts], b.hedge[LOSS, :experts]
    if b.hedge.shape[0] == WEIGHTS:
        mix(weights, losses)
        return
    slow, fast = b.hedge[WEIGHTS, :experts], b.hedge[WEIGHTS + 1, :experts]
    mix(slow, losses)
    mix_fast(fast, losses)
    for k in range(experts):
        weights[k] = 0.5 * slow[k] + 0.5 * fast[k]


@jit
def _mark_lost(b: Buffers) -> None:
    """Give the experts of each trajectory that diverged an infinite loss."""
    row = 0
    for k in range(b.trajectories.shape[1]):
        experts = int(b.trajectories[RAW, k] != 0.0) + int(b.trajectories[AVERAGE, k] >= 0.0)
        for _ in range(experts):
            if b.trajectories[LOST, k] != 0.0:
                b.hedge[LOSS, row] = math.inf
            row += 1


@jit
def _restart(b: Buffers) -> None:
    """Restart each trajectory that diverged from the best of its kind."""
    networks, total = b.params.shape[0], b.trajectories.shape[1]
    best, best_linear, most, most_linear, row = -1, -1, -1.0, -1.0, 0
    for k in range(total):
        weight = 0.0
        if b.trajectories[RAW, k] != 0.0:
            weight = max(weight, b.hedge[WEIGHT, row])
            row += 1
        if b.trajectories[AVERAGE, k] >= 0.0:
            weight = max(weight, b.hedge[WEIGHT, row])
            row += 1
        if b.trajectories[LOST, k] != 0.0:
            continue
        if k < networks and weight > most:
            best, most = k, weight
        if k >= networks and weight > most_linear:
            best_linear, most_linear = k, weight
    for k in range(total):
        if b.trajectories[LOST, k] == 0.0:
            continue
        if k >= networks:
            _restart_linear(b, k - networks, best_linear - networks)
            continue
        assign(b.params[k], b.params[best])
        for i in range(2):
            assign(b.hidden[i, k], b.hidden[i, best])
        b.trajectories[HIDDEN_WEIGHT, k] = b.trajectories[HIDDEN_WEIGHT, best]
        b.trajectories[HIDDEN_PRIOR, k] = b.trajectories[HIDDEN_PRIOR, best]
        if b.trajectories[AVERAGE, k] >= 0.0:
            assign(b.average[int(b.trajectories[AVERAGE, k])], b.params[best])


@jit
def _restart_linear(b: Buffers, k: int, best: int) -> None:
    if best >= 0:
        assign(b.linear[k], b.linear[best])
        return
    for i in range(b.linear.shape[1]):  # as a new one begins
        b.linear[k, i] = 0.0
