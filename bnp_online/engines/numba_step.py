"""Compiled prediction and step of the numba engine, on flat arrays, a block of rows in one call."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit
from ..mixture import FIRST_VALUES, average_share, draw
from .base import ERROR_CLIP, INPUT_CLIP, TARGET_CLIP
from .numba_bins import run_bins, step_bins
from .numba_buffers import (
    ACTIVATION,
    ACTS,
    AVERAGE,
    BACK,
    BOUNDED,
    BOUNDED_VALUES,
    CAPACITY,
    CLASSES,
    CLIPPED,
    DELTA,
    ENTRY_BEFORE,
    ENTRY_PRIOR,
    ENTRY_U,
    ENTRY_WEIGHT,
    EPS_ABS,
    EPS_REL,
    ERROR_SCALE,
    FIRST,
    GOAL,
    HIDDEN_PRIOR,
    HIDDEN_WEIGHT,
    INPUTS_WEIGHT,
    LOST,
    MEAN,
    MEAN_BEFORE,
    MISSING,
    MISSING_VALUES,
    MIXED,
    NEIGHBOURS,
    PRE,
    RATE,
    RAW_TARGET,
    REGRESSION,
    REMEMBERED,
    REPLAY,
    REPLAYS,
    RHO,
    SAMPLE_WEIGHT,
    SEED,
    STANDARDIZED,
    STEP,
    STEP_SCALE,
    TARGET_HIGH,
    TARGET_LOW,
    TARGET_WEIGHT,
    VALUES,
    VAR,
    Buffers,
    U,
)
from .numba_experts import (
    first_logit,
    judge,
    mark_unsound,
    place,
    predict_row,
    run,
    run_linear,
    take_given,
    update_experts,
)
from .numba_glitches import admit, bound, revise
from .numba_kernels import (
    BLOCK,
    Real,
    Reals,
    assign,
    count,
    cross_entropy,
    padded,
    scale,
    slope,
    step_and_back,
    step_first,
)
from .numba_neighbours import renew_metric

#: Bound of a learning rate times a weight; beyond it a parameter would become infinite.
LARGEST_RATE = 1e12


@jit
def predict(
    x: NDArray[np.float64],
    predictions: NDArray[np.float64],
    sizes: NDArray[np.int64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    trajectories: NDArray[np.float64],
    params: Reals,
    average: Reals,
    linear: Reals,
    hidden: Reals,
    entry: Reals,
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    memory_x: Reals,
    memory_y: NDArray[np.float64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
    distances: Reals,
    nearest: NDArray[np.float64],
    bins: Reals,
    scratch: Reals,
    live: NDArray[np.int64],
) -> int:
    """Write the predictions for rows of raw inputs; return the number of rows before one without prediction.

    The arrays of the learner are passed one by one, ``*Buffers``: numba takes 0.4 µs to find their types, and
    2.8 µs for those of the tuple.
    """
    b = Buffers(
        sizes,
        config,
        scalars,
        trajectories,
        params,
        average,
        linear,
        hidden,
        entry,
        inputs,
        target,
        memory_x,
        memory_y,
        hedge,
        stack,
        outputs,
        distances,
        nearest,
        bins,
        scratch,
        live,
    )
    for t in range(x.shape[0]):
        if not predict_row(b, x[t]):
            return t
        assign(predictions[t], b.outputs[MIXED])
    return len(x)


@jit
def learn(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    given: NDArray[np.float64],
    predictions: NDArray[np.float64],
    sizes: NDArray[np.int64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    trajectories: NDArray[np.float64],
    params: Reals,
    average: Reals,
    linear: Reals,
    hidden: Reals,
    entry: Reals,
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    memory_x: Reals,
    memory_y: NDArray[np.float64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
    distances: Reals,
    nearest: NDArray[np.float64],
    bins: Reals,
    scratch: Reals,
    live: NDArray[np.int64],
) -> int:
    """Learn rows in order, one step each; return the number of rows before a refused one.

    Parameters
    ----------
    x, y, weights : float64 (N, n), (N,), (N,)
        Raw inputs (NaN marks a missing value), class indices or targets, sample weights.
    given : float64 (N, K, C) or (0, 0, 0)
        Predictions of the experts to judge, as `numba_experts.take_given`.
    predictions : float64 (N, C) or (0, C)
        Receives the prediction made for each row before its step.
    sizes, …
        Arrays of the learner; see `Buffers`.
    """
    b = Buffers(
        sizes,
        config,
        scalars,
        trajectories,
        params,
        average,
        linear,
        hidden,
        entry,
        inputs,
        target,
        memory_x,
        memory_y,
        hedge,
        stack,
        outputs,
        distances,
        nearest,
        bins,
        scratch,
        live,
    )
    wanted = predictions.shape[0] > 0
    mixture = b.hedge.shape[1] > 3
    for t in range(x.shape[0]):
        if (wanted or mixture) and not predict_row(b, x[t]):
            return t
        judged = True
        if mixture:
            mark_unsound(b)
            if given.shape[0] > 0:
                judged = take_given(b, given[t], y[t])
        if wanted:
            assign(predictions[t], b.outputs[MIXED])
        bounded = _bound_target(b, y[t])
        if mixture:
            judge(b, bounded)
        if not _learn_row(b, x[t], bounded, weights[t], judged):
            return t
    return len(x)


@jit
def _bound_target(b: Buffers, y: float) -> float:
    """Return the target, bounded if the learner bounds values."""
    if not (b.config[REGRESSION] and b.config[BOUNDED_VALUES]):
        return y
    b.target[BOUNDED, 0] = y
    bound(b.target, b.target[BOUNDED], b.nearest.reshape(b.nearest.size))
    return float(b.target[BOUNDED, 0])


@jit
def _learn_row(b: Buffers, x: NDArray[np.float64], y: float, weight: float, judged: bool) -> bool:
    """Learn one sample; return False, and change nothing, if no network stays finite.

    With `judged`, it may change hedge and stack.
    """
    s, regression, n = b.scalars, b.config[REGRESSION], b.sizes[0]
    for i in range(2):
        assign(b.inputs[MEAN_BEFORE + i], b.inputs[MEAN + i])
        assign(b.entry[ENTRY_BEFORE + i], b.entry[MEAN + i])
        assign(b.target[MEAN_BEFORE + i], b.target[MEAN + i])
    order, values = b.nearest.reshape(b.nearest.size), b.inputs[BOUNDED]
    assign(values, x)
    if b.config[BOUNDED_VALUES]:
        bound(b.inputs, x, order)
    count(b.inputs[MEAN], b.inputs[VAR], values, s[INPUTS_WEIGHT] + 1.0)
    if b.config[BOUNDED_VALUES]:
        revise(b.inputs, order)
    place(b, values)
    entry_weight = _next_weight(s[ENTRY_WEIGHT], s[RHO])
    count(b.entry[MEAN], b.entry[VAR], b.scratch[ACTS, :n], entry_weight)
    goal = _count_target(b, y, order) if regression else y
    if not _step_members(b, goal, weight):
        for i in range(2):
            assign(b.inputs[MEAN + i], b.inputs[MEAN_BEFORE + i])
            assign(b.entry[MEAN + i], b.entry[ENTRY_BEFORE + i])
            assign(b.target[MEAN + i], b.target[MEAN_BEFORE + i])
        return False
    if b.bins.shape[0] > 0 and weight < LARGEST_RATE:
        _step_bins(b, values, goal, weight)
    s[ENTRY_PRIOR] *= (entry_weight - 1.0) / s[ENTRY_WEIGHT]
    s[INPUTS_WEIGHT], s[ENTRY_WEIGHT], s[STEP] = s[INPUTS_WEIGHT] + 1.0, entry_weight, s[STEP] + 1.0
    if b.config[BOUNDED_VALUES]:
        admit(b.inputs, order)
        _count_clipped(b, values)
    if b.hedge.shape[1] > 3:
        update_experts(b, y, weight, judged)
    if regression:
        s[TARGET_WEIGHT] += 1.0
        s[TARGET_LOW], s[TARGET_HIGH] = min(s[TARGET_LOW], y), max(s[TARGET_HIGH], y)
        if b.config[BOUNDED_VALUES]:
            _admit_target(b, order)
    else:
        s[CLASSES] = max(s[CLASSES], y + 1.0)
    if b.config[CAPACITY] > 0:
        _remember(b, values, goal, y, weight)
        _replay(b)
    _average(b)
    if b.config[NEIGHBOURS]:
        renew_metric(b)
    return True


@jit
def _count_clipped(b: Buffers, values: NDArray[np.float64]) -> None:
    """Count the values that were clipped when they were standardized."""
    if b.config[STANDARDIZED]:
        for j in range(values.shape[0]):
            b.inputs[CLIPPED, j] += (abs(b.scratch[ACTS, j]) >= INPUT_CLIP) & ~math.isnan(values[j])


@jit
def _admit_target(b: Buffers, order: NDArray[np.float64]) -> None:
    """Count the bounded target; at the 20th, bound what an absurd one among the first may have changed."""
    s, before = b.scalars, b.target[VALUES, 0]
    admit(b.target, order)
    if before != FIRST_VALUES - 1:
        return
    s[TARGET_LOW], s[TARGET_HIGH] = math.inf, -math.inf
    for i in range(FIRST_VALUES):
        s[TARGET_LOW] = min(s[TARGET_LOW], b.target[FIRST + i, 0])
        s[TARGET_HIGH] = max(s[TARGET_HIGH], b.target[FIRST + i, 0])
    s[ERROR_SCALE] = min(s[ERROR_SCALE], 1.0)
    if b.config[NEIGHBOURS]:
        for slot in range(min(int(s[REMEMBERED]), b.config[CAPACITY])):
            y = b.memory_y[slot, RAW_TARGET]
            b.memory_y[slot, RAW_TARGET] = min(max(y, s[TARGET_LOW]), s[TARGET_HIGH])


@jit
def _next_weight(weight: float, rho: float) -> float:
    """Return the weight of moments after one more step; its inverse is ``1 − ρ_t``."""
    return min(weight + 1.0, 1.0 / (1.0 - rho)) if rho < 1.0 else weight + 1.0


@jit
def _count_target(b: Buffers, y: float, order: NDArray[np.float64]) -> float:
    """Count a target; return its standardized, clipped value."""
    b.target[BOUNDED, 0] = y
    count(b.target[MEAN], b.target[VAR], b.target[BOUNDED], b.scalars[TARGET_WEIGHT] + 1.0)
    if b.config[BOUNDED_VALUES]:
        revise(b.target, order)
    if b.target[VAR, 0] <= 0.0:
        return 0.0
    z = (y - b.target[MEAN, 0]) / math.sqrt(b.target[VAR, 0])
    return float(min(max(z, -TARGET_CLIP), TARGET_CLIP))


@jit
def _step_members(b: Buffers, goal: float, weight: float) -> bool:
    """Step every finite trajectory on the input in `scratch`; return whether there was a network."""
    inverse, inverse_bias = _scale_entry(b)
    alive = False
    networks = b.params.shape[0]
    for k in range(networks):
        if b.trajectories[RATE, k] * weight < LARGEST_RATE and run(b, b.params[k]):
            _step_network(b, k, goal, weight, inverse, inverse_bias)
            alive = True
        else:
            b.trajectories[LOST, k] = 1.0
    if not alive:
        return False
    for k in range(b.linear.shape[0]):
        if b.trajectories[RATE, networks + k] * weight < LARGEST_RATE and run_linear(b, b.linear[k]):
            _step_linear(b, k, goal, weight, inverse, inverse_bias)
        else:
            b.trajectories[LOST, networks + k] = 1.0
    return True


@jit
def _scale_entry(b: Buffers) -> tuple[Real, Real]:
    """Compute the scale of the first layer, common to all trajectories."""
    s, n = b.scalars, b.sizes[0]
    z, u = b.scratch[ACTS, :n], b.scratch[ENTRY_U, :n]
    return scale(b.entry[MEAN], b.entry[VAR], z, s[EPS_REL], s[EPS_ABS], b.config[STEP_SCALE], u)


@jit
def _output_gradient(b: Buffers, goal: float) -> None:
    """Write the gradient of the loss at the outputs of the network run last to ``b.scratch[DELTA]``."""
    real, first, delta = b.params.dtype.type, first_logit(b), b.scratch[DELTA]
    outs = b.scratch[PRE, first : first + b.sizes[-1]]
    if b.config[REGRESSION]:
        delta[0] = min(max(outs[0] - real(goal), real(-ERROR_CLIP)), real(ERROR_CLIP))
    else:
        cross_entropy(outs, int(goal), delta)


@jit
def _step_linear(b: Buffers, k: int, goal: float, weight: float, inverse: Real, inverse_bias: Real) -> None:
    """Step a linear trajectory, right after its forward pass."""
    real = b.params.dtype.type
    c, width = b.sizes[-1], padded(b.sizes[0])
    _output_gradient(b, goal)
    matrix = b.linear[k, : c * width].reshape(c, width)
    bias = b.linear[k, c * width : c * width + c]
    rate = real(b.trajectories[RATE, b.params.shape[0] + k] * weight)
    delta, u = b.scratch[DELTA, :c], b.scratch[ENTRY_U, : b.sizes[0]]
    step_first(matrix, bias, delta, u, rate * real(inverse), rate * real(inverse_bias), b.live)


@jit
def _step_bins(b: Buffers, values: NDArray[np.float64], goal: float, weight: float) -> None:
    """Step the model of bins."""
    active = run_bins(b, values, first_logit(b))
    _output_gradient(b, goal)
    step_bins(b, active, weight)


@jit
def _step_network(b: Buffers, k: int, goal: float, weight: float, inverse: Real, inverse_bias: Real) -> None:
    """Back-propagate through network k, right after its forward pass, and step layer by layer."""
    real = b.params.dtype.type
    s, config, sizes = b.scalars, b.config, b.sizes
    acts, pre, u = b.scratch[ACTS], b.scratch[PRE], b.scratch[U]
    delta, back = b.scratch[DELTA], b.scratch[BACK]
    _output_gradient(b, goal)
    rate = real(b.trajectories[RATE, k] * weight)
    last = delta[0] * delta[0]
    start, offset = 0, b.params.shape[1]
    for layer in range(sizes.shape[0] - 1):
        start += sizes[layer]
    if start > sizes[0]:
        before = b.trajectories[HIDDEN_WEIGHT, k]
        b.trajectories[HIDDEN_WEIGHT, k] = _next_weight(before, s[RHO])
        b.trajectories[HIDDEN_PRIOR, k] *= (b.trajectories[HIDDEN_WEIGHT, k] - 1.0) / before
    for layer in range(sizes.shape[0] - 2, -1, -1):
        n, m = sizes[layer], sizes[layer + 1]
        width = padded(n)
        start, offset = start - n, offset - (m * width + padded(m))
        matrix = b.params[k, offset : offset + m * width].reshape(m, width)
        bias = b.params[k, offset + m * width : offset + m * width + m]
        step = rate / _gain(delta[:m], last) if config[REGRESSION] else rate
        if layer == 0:
            entry_u = b.scratch[ENTRY_U, :n]
            step_first(
                matrix, bias, delta[:m], entry_u, step * real(inverse), step * real(inverse_bias), b.live
            )
            return
        h, low = acts[start : start + n], start - sizes[0]
        mean, var = b.hidden[0, k, low : low + n], b.hidden[1, k, low : low + n]
        count(mean, var, h, b.trajectories[HIDDEN_WEIGHT, k])
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
def _remember(b: Buffers, x: NDArray[np.float64], goal: float, y: float, weight: float) -> None:
    """Write the standardized sample to the memory, in the place of the oldest."""
    slot = int(b.scalars[REMEMBERED]) % b.config[CAPACITY]
    block, column = slot // BLOCK, slot % BLOCK
    for j in range(b.sizes[0]):
        b.memory_x[block, j, column] = b.scratch[ACTS, j]
    b.memory_y[slot, GOAL], b.memory_y[slot, SAMPLE_WEIGHT] = goal, weight
    b.scalars[REMEMBERED] += 1.0
    if not b.config[NEIGHBOURS]:
        return
    missing = 0
    for j in range(b.sizes[0]):
        if math.isnan(x[j]):
            b.memory_x[block, j, column] = math.nan
            missing += 1
    b.scalars[MISSING_VALUES] += missing - b.memory_y[slot, MISSING]
    b.memory_y[slot, RAW_TARGET], b.memory_y[slot, MISSING] = y, missing


@jit
def _replay(b: Buffers) -> None:
    """Step the trajectories that replay on samples of the memory, the same for all of them."""
    remembered = min(int(b.scalars[REMEMBERED]), b.config[CAPACITY])
    for k in range(b.params.shape[0]):  # trajectories outside: their parameters stay in the cache
        if b.trajectories[REPLAYS, k] == 0.0:
            continue
        for turn in range(b.config[REPLAY]):
            j = draw(b.config[SEED], int(b.scalars[STEP]), turn, remembered)
            _recall(b, j)
            if run(b, b.params[k]):
                inverse, inverse_bias = _scale_entry(b)
                _step_network(b, k, b.memory_y[j, GOAL], b.memory_y[j, SAMPLE_WEIGHT], inverse, inverse_bias)


@jit
def _recall(b: Buffers, slot: int) -> None:
    """Copy a remembered input to ``b.scratch[ACTS]``; a missing value is at the mean."""
    block, column = slot // BLOCK, slot % BLOCK
    for j in range(b.sizes[0]):
        z = b.memory_x[block, j, column]
        if math.isnan(z):
            z = b.params.dtype.type(0.0 if b.config[STANDARDIZED] else b.inputs[MEAN, j])
        b.scratch[ACTS, j] = z


@jit
def _average(b: Buffers) -> None:
    """Update the running means of the weights."""
    share = b.params.dtype.type(average_share(int(b.scalars[STEP])))
    if share == 0.0:
        return
    for k in range(b.params.shape[0]):
        if b.trajectories[AVERAGE, k] >= 0.0:
            mean, latest = b.average[int(b.trajectories[AVERAGE, k])], b.params[k]
            for i in range(mean.shape[0]):
                mean[i] += share * (latest[i] - mean[i])
