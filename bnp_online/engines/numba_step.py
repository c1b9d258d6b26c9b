"""Compiled prediction and step of the numba engine, on flat arrays, a block of rows in one call."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..jit import jit
from ..mixture import ERROR_FLOOR, ERROR_RETENTION, MAX_LOSS, average_share, draw, mix
from .base import ERROR_CLIP, INPUT_CLIP, TARGET_CLIP
from .numba_kernels import (
    Real,
    Reals,
    assign,
    count,
    cross_entropy,
    forward,
    same,
    scale,
    slope,
    softmax,
    sound,
    standardize,
    step_and_back,
    step_first,
)

# Entries of `Buffers.config`.
REGRESSION, ACTIVATION, STEP_SCALE, STANDARDIZED, REPLAY, SEED = range(6)
# Entries of `Buffers.scalars`.
RHO, EPS_REL, EPS_ABS, STEP, INPUTS_WEIGHT, ENTRY_WEIGHT, ENTRY_PRIOR = range(7)
TARGET_WEIGHT, TARGET_LOW, TARGET_HIGH, ERROR_SCALE, OWN_ERROR, REMEMBERED, PREDICTED = range(7, 14)
# Rows of `Buffers.members`.
RATE, REPLAYS, WEIGHT, HIDDEN_WEIGHT, HIDDEN_PRIOR, LOSS, AVERAGE = range(7)
# Rows of `Buffers.scratch`.
ACTS, PRE, ENTRY_U, U, DELTA, BACK = range(6)


class Buffers(NamedTuple):
    """State of a learner in flat arrays.

    ``real`` is float32, or float64 for tests of exactness. There are M members, n inputs, H hidden units and
    C outputs.

    Attributes
    ----------
    sizes : int64 (layers + 1,)
        n, widths of the hidden layers, C.
    config : int64 (6,)
        Integer settings.
    scalars : float64 (14,)
        Scalar settings and state.
    members : float64 (7, M)
        Learning rate, whether it replays, mixture weight, weight of the hidden moments and the rest of their
        pseudo-sample's weight, latest loss, row of `average` (−1 without running means).
    params : real (M, P)
        W of each layer, row by row, then b.
    average : real (A, P)
        Running means of the parameters of the members that average.
    hidden : real (2, M, H)
        Mean and variance of the inputs of the second and later layers.
    entry : real (2, n)
        Mean and variance of the inputs of the first layer, common to all members.
    inputs, target : float64 (2, n), (2, 1)
        Mean and variance of the raw inputs and of the target.
    backup_entry, backup_inputs : real (2, n), float64 (2, n)
        `entry` and `inputs` before the step, for a refusal.
    memory_x, memory_y : real (S, n), float64 (S, 2)
        Replay buffer: standardized inputs; targets and weights.
    latest, outputs : float64 (n,), (M, C)
        Raw input predicted last, at the step ``scalars[PREDICTED]``, and the prediction of each member: NaN
        if it is not sound.
    scratch, live, mixed : real (6, n + H + C), int64 (n + H + C,), float64 (C,)
        Working space.
    """

    sizes: NDArray[np.int64]
    config: NDArray[np.int64]
    scalars: NDArray[np.float64]
    members: NDArray[np.float64]
    params: Reals
    average: Reals
    hidden: Reals
    entry: Reals
    inputs: NDArray[np.float64]
    target: NDArray[np.float64]
    backup_entry: Reals
    backup_inputs: NDArray[np.float64]
    memory_x: Reals
    memory_y: NDArray[np.float64]
    latest: NDArray[np.float64]
    outputs: NDArray[np.float64]
    scratch: Reals
    live: NDArray[np.int64]
    mixed: NDArray[np.float64]


#: Bound of a learning rate times a weight; beyond it a parameter would become infinite.
LARGEST_RATE = 1e12


@jit
def _run(b: Buffers, params: Reals) -> bool:
    """Run a network on the standardized input in `scratch`; return whether it is sound."""
    pre, n = b.scratch[PRE], b.sizes[0]
    forward(params, b.sizes, b.config[ACTIVATION], b.scratch[ACTS], pre)
    return sound(b.scratch[ACTS, :n]) and sound(pre[n:])


@jit
def _run_predictor(b: Buffers, k: int) -> bool:
    """Run member k with its parameters for predictions."""
    row = int(b.members[AVERAGE, k])
    return _run(b, b.average[row]) if row >= 0 else _run(b, b.params[k])


@jit
def _restore(b: Buffers, z: float) -> float:
    """Map a regression's output back, clipped to the range of targets seen, widened by half."""
    margin = (b.scalars[TARGET_HIGH] - b.scalars[TARGET_LOW]) / 4.0
    value = b.target[0, 0] + math.sqrt(b.target[1, 0]) * z
    low, high = b.scalars[TARGET_LOW] - margin, b.scalars[TARGET_HIGH] + margin
    return float(min(max(value, low), high))


@jit
def _place(b: Buffers, x: NDArray[np.float64]) -> None:
    """Standardize a raw input into `scratch`."""
    clip = INPUT_CLIP if b.config[STANDARDIZED] else 0.0
    standardize(b.inputs[0], b.inputs[1], x, clip, b.scratch[ACTS, : b.sizes[0]])


@jit
def _run_members(b: Buffers, x: NDArray[np.float64]) -> None:
    """Write the prediction of each member for a raw input to ``b.outputs``.

    A repeated prediction is not computed again: a sample that is predicted, then learned, runs once (this
    saves a seventh of the time of four members without replay).
    """
    if b.scalars[PREDICTED] == b.scalars[STEP] and same(x, b.latest):
        return
    _place(b, x)
    logits = b.scratch[PRE, b.scratch.shape[1] - b.sizes[-1] :]
    for k in range(b.params.shape[0]):
        if not _run_predictor(b, k):
            b.outputs[k, 0] = math.nan
        elif b.config[REGRESSION]:
            b.outputs[k, 0] = _restore(b, logits[0])
        else:
            softmax(logits, b.scratch[DELTA], b.outputs[k])
    assign(b.latest, x)
    b.scalars[PREDICTED] = b.scalars[STEP]


@jit
def _mix_predictions(b: Buffers, y: float) -> bool:
    """Write the weighted prediction to ``b.mixed`` and, given a label, the loss of each member."""
    total = 0.0
    b.mixed[:] = 0.0
    for k in range(b.params.shape[0]):
        outputs, weight = b.outputs[k], b.members[WEIGHT, k]
        if math.isnan(outputs[0]):
            b.members[LOSS, k] = math.inf
            continue
        total += weight
        for i in range(b.mixed.shape[0]):
            b.mixed[i] += weight * outputs[i]
        if b.config[REGRESSION]:
            error = abs(y - outputs[0]) / math.sqrt(max(b.target[1, 0], 1e-300))
            b.members[LOSS, k] = min(error / max(b.scalars[ERROR_SCALE], ERROR_FLOOR), MAX_LOSS)
        elif y >= 0.0:
            p = outputs[int(y)]
            b.members[LOSS, k] = min(-math.log(p), MAX_LOSS) if p > 0.0 else MAX_LOSS
    if total <= 0.0:
        return False
    for i in range(b.mixed.shape[0]):
        b.mixed[i] /= total
    if b.config[REGRESSION]:
        spread = b.target[1, 0]
        b.scalars[OWN_ERROR] = abs(y - b.mixed[0]) / math.sqrt(spread) if spread > 0.0 else -1.0
    return True


@jit
def predict(
    x: NDArray[np.float64],
    predictions: NDArray[np.float64],
    sizes: NDArray[np.int64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    members: NDArray[np.float64],
    params: Reals,
    average: Reals,
    hidden: Reals,
    entry: Reals,
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    backup_entry: Reals,
    backup_inputs: NDArray[np.float64],
    memory_x: Reals,
    memory_y: NDArray[np.float64],
    latest: NDArray[np.float64],
    outputs: NDArray[np.float64],
    scratch: Reals,
    live: NDArray[np.int64],
    mixed: NDArray[np.float64],
) -> int:
    """Write the predictions for rows of raw inputs; return the number of rows before one without prediction.

    The arrays of the learner are passed one by one, ``*Buffers``: numba takes 0.4 µs to find their types, and
    2.8 µs for those of the tuple.
    """
    b = Buffers(
        sizes,
        config,
        scalars,
        members,
        params,
        average,
        hidden,
        entry,
        inputs,
        target,
        backup_entry,
        backup_inputs,
        memory_x,
        memory_y,
        latest,
        outputs,
        scratch,
        live,
        mixed,
    )
    for t in range(x.shape[0]):
        _run_members(b, x[t])
        if not _mix_predictions(b, -1.0):
            return t
        assign(predictions[t], b.mixed)
    return len(x)


@jit
def learn(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    predictions: NDArray[np.float64],
    sizes: NDArray[np.int64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    members: NDArray[np.float64],
    params: Reals,
    average: Reals,
    hidden: Reals,
    entry: Reals,
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    backup_entry: Reals,
    backup_inputs: NDArray[np.float64],
    memory_x: Reals,
    memory_y: NDArray[np.float64],
    latest: NDArray[np.float64],
    outputs: NDArray[np.float64],
    scratch: Reals,
    live: NDArray[np.int64],
    mixed: NDArray[np.float64],
) -> int:
    """Learn rows in order, one step each; return the number of rows before a refused one.

    Parameters
    ----------
    x, y, weights : float64 (N, n), (N,), (N,)
        Raw inputs (NaN marks a missing value), class indices or targets, sample weights.
    predictions : float64 (N, C) or (0, C)
        Receives the prediction made for each row before its step.
    sizes, …
        Arrays of the learner; see `Buffers`.
    """
    b = Buffers(
        sizes,
        config,
        scalars,
        members,
        params,
        average,
        hidden,
        entry,
        inputs,
        target,
        backup_entry,
        backup_inputs,
        memory_x,
        memory_y,
        latest,
        outputs,
        scratch,
        live,
        mixed,
    )
    wanted = predictions.shape[0] > 0
    for t in range(x.shape[0]):
        if wanted or b.params.shape[0] > 1:
            _run_members(b, x[t])
            if not _mix_predictions(b, y[t]):
                return t
            if wanted:
                assign(predictions[t], b.mixed)
        if not _learn_row(b, x[t], y[t], weights[t]):
            return t
    return len(x)


@jit
def _learn_row(b: Buffers, x: NDArray[np.float64], y: float, weight: float) -> bool:
    """Learn one sample; return False, and change nothing, if no member stays finite."""
    s, regression = b.scalars, b.config[REGRESSION]
    for i in range(2):
        assign(b.backup_inputs[i], b.inputs[i])
        assign(b.backup_entry[i], b.entry[i])
    target_mean, target_var = b.target[0, 0], b.target[1, 0]
    count(b.inputs[0], b.inputs[1], x, s[INPUTS_WEIGHT] + 1.0)
    _place(b, x)
    entry_weight = _next_weight(s[ENTRY_WEIGHT], s[RHO])
    count(b.entry[0], b.entry[1], b.scratch[ACTS, : b.sizes[0]], entry_weight)
    goal = _count_target(b, y) if regression else y
    if not _step_members(b, goal, weight):
        for i in range(2):
            assign(b.inputs[i], b.backup_inputs[i])
            assign(b.entry[i], b.backup_entry[i])
        b.target[0, 0], b.target[1, 0] = target_mean, target_var
        return False
    s[ENTRY_PRIOR] *= (entry_weight - 1.0) / s[ENTRY_WEIGHT]
    s[INPUTS_WEIGHT], s[ENTRY_WEIGHT], s[STEP] = s[INPUTS_WEIGHT] + 1.0, entry_weight, s[STEP] + 1.0
    if regression:
        s[TARGET_WEIGHT] += 1.0
        s[TARGET_LOW], s[TARGET_HIGH] = min(s[TARGET_LOW], y), max(s[TARGET_HIGH], y)
    if b.params.shape[0] > 1:
        _update_mixture(b)
    if b.memory_x.shape[0] > 0:
        _remember(b, goal, weight)
        _replay(b)
    _average(b)
    return True


@jit
def _next_weight(weight: float, rho: float) -> float:
    """Return the weight of moments after one more step; its inverse is ``1 − ρ_t``."""
    return min(weight + 1.0, 1.0 / (1.0 - rho)) if rho < 1.0 else weight + 1.0


@jit
def _count_target(b: Buffers, y: float) -> float:
    """Count a target; return its standardized, clipped value."""
    b.mixed[0] = y
    count(b.target[0], b.target[1], b.mixed[:1], b.scalars[TARGET_WEIGHT] + 1.0)
    if b.target[1, 0] <= 0.0:
        return 0.0
    z = (y - b.target[0, 0]) / math.sqrt(b.target[1, 0])
    return float(min(max(z, -TARGET_CLIP), TARGET_CLIP))


@jit
def _step_members(b: Buffers, goal: float, weight: float) -> bool:
    """Step every finite member on the input in `scratch`; return whether there was one."""
    inverse, inverse_bias = _scale_entry(b)
    alive = False
    for k in range(b.params.shape[0]):
        if b.members[RATE, k] * weight < LARGEST_RATE and _run(b, b.params[k]):
            _step_member(b, k, goal, weight, inverse, inverse_bias)
            alive = True
        else:
            b.members[LOSS, k] = math.inf
    return alive


@jit
def _scale_entry(b: Buffers) -> tuple[Real, Real]:
    """Compute the scale of the first layer, common to all members."""
    s, n = b.scalars, b.sizes[0]
    z, u = b.scratch[ACTS, :n], b.scratch[ENTRY_U, :n]
    return scale(b.entry[0], b.entry[1], z, s[EPS_REL], s[EPS_ABS], b.config[STEP_SCALE], u)


@jit
def _step_member(b: Buffers, k: int, goal: float, weight: float, inverse: Real, inverse_bias: Real) -> None:
    """Back-propagate through member k, right after its forward pass, and step layer by layer."""
    real = b.params.dtype.type
    s, config, sizes = b.scalars, b.config, b.sizes
    acts, pre, u = b.scratch[ACTS], b.scratch[PRE], b.scratch[U]
    delta, back = b.scratch[DELTA], b.scratch[BACK]
    logits = pre[pre.shape[0] - sizes[-1] :]
    if config[REGRESSION]:
        delta[0] = min(max(logits[0] - real(goal), real(-ERROR_CLIP)), real(ERROR_CLIP))
    else:
        cross_entropy(logits, int(goal), delta)
    rate = real(b.members[RATE, k] * weight)
    last = delta[0] * delta[0]
    start, offset = 0, b.params.shape[1]
    for layer in range(sizes.shape[0] - 1):
        start += sizes[layer]
    if start > sizes[0]:
        before = b.members[HIDDEN_WEIGHT, k]
        b.members[HIDDEN_WEIGHT, k] = _next_weight(before, s[RHO])
        b.members[HIDDEN_PRIOR, k] *= (b.members[HIDDEN_WEIGHT, k] - 1.0) / before
    for layer in range(sizes.shape[0] - 2, -1, -1):
        n, m = sizes[layer], sizes[layer + 1]
        start, offset = start - n, offset - (m * n + m)
        matrix = b.params[k, offset : offset + m * n].reshape(m, n)
        bias = b.params[k, offset + m * n : offset + m * n + m]
        step = rate / _gain(delta[:m], last) if config[REGRESSION] else rate
        if layer == 0:
            entry_u = b.scratch[ENTRY_U]
            step_first(
                matrix, bias, delta[:m], entry_u, step * real(inverse), step * real(inverse_bias), b.live
            )
            return
        h, low = acts[start : start + n], start - sizes[0]
        mean, var = b.hidden[0, k, low : low + n], b.hidden[1, k, low : low + n]
        count(mean, var, h, b.members[HIDDEN_WEIGHT, k])
        q, q_bias = scale(mean, var, h, s[EPS_REL], s[EPS_ABS], config[STEP_SCALE], u)
        step_and_back(matrix, bias, delta[:m], u, step * q, step * q_bias, b.live, back[:n])
        slope(config[ACTIVATION], pre[start : start + n], h, back, delta)


@jit
def _gain(delta: Reals, last: Real) -> Real:
    """Return the gain of a layer, ``max(1, ‖δ_l‖²/‖δ_L‖²)``: the amplification of its step at the output."""
    total = delta.dtype.type(0.0)
    for i in range(delta.shape[0]):
        total += delta[i] * delta[i]
    one = delta.dtype.type(1.0)
    return max(one, total / last) if last > 0.0 else one


@jit
def _update_mixture(b: Buffers) -> None:
    """Update the mixture by the losses; a member that diverged restarts from the best."""
    if b.config[REGRESSION]:
        error = b.scalars[OWN_ERROR]
        if error < 0.0:  # the targets have no spread yet
            return
        b.scalars[ERROR_SCALE] += (1.0 - ERROR_RETENTION) * (error - b.scalars[ERROR_SCALE])
    losses, weights = b.members[LOSS], b.members[WEIGHT]
    mix(weights, losses)
    best = -1
    for k in range(weights.shape[0]):
        if losses[k] < math.inf and (best < 0 or weights[k] > weights[best]):
            best = k
    for k in range(weights.shape[0]):
        if losses[k] == math.inf:
            assign(b.params[k], b.params[best])
            for i in range(2):
                assign(b.hidden[i, k], b.hidden[i, best])
            b.members[HIDDEN_WEIGHT, k] = b.members[HIDDEN_WEIGHT, best]
            b.members[HIDDEN_PRIOR, k] = b.members[HIDDEN_PRIOR, best]
            if b.members[AVERAGE, k] >= 0.0:
                assign(b.average[int(b.members[AVERAGE, k])], b.params[best])


@jit
def _remember(b: Buffers, goal: float, weight: float) -> None:
    """Write the standardized sample to the replay buffer, in the place of the oldest."""
    slot = int(b.scalars[REMEMBERED]) % b.memory_x.shape[0]
    assign(b.memory_x[slot], b.scratch[ACTS])
    b.memory_y[slot, 0], b.memory_y[slot, 1] = goal, weight
    b.scalars[REMEMBERED] += 1.0


@jit
def _replay(b: Buffers) -> None:
    """Step the members that replay on samples of the replay buffer, the same for all of them."""
    remembered = min(int(b.scalars[REMEMBERED]), b.memory_x.shape[0])
    for k in range(b.params.shape[0]):  # members outside: their parameters stay in the cache
        if b.members[REPLAYS, k] == 0.0:
            continue
        for turn in range(b.config[REPLAY]):
            j = draw(b.config[SEED], int(b.scalars[STEP]), turn, remembered)
            assign(b.scratch[ACTS, : b.sizes[0]], b.memory_x[j])
            if _run(b, b.params[k]):
                inverse, inverse_bias = _scale_entry(b)
                _step_member(b, k, b.memory_y[j, 0], b.memory_y[j, 1], inverse, inverse_bias)


@jit
def _average(b: Buffers) -> None:
    """Update the running means of the weights."""
    share = b.params.dtype.type(average_share(int(b.scalars[STEP])))
    if share == 0.0:
        return
    for k in range(b.params.shape[0]):
        if b.members[AVERAGE, k] >= 0.0:
            mean, latest = b.average[int(b.members[AVERAGE, k])], b.params[k]
            for i in range(mean.shape[0]):
                mean[i] += share * (latest[i] - mean[i])
