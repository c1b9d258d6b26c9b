"""Networks and linear models: what each of them does with the rows of a run, alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from ..mixture import average_share
from .base import ERROR_CLIP
from .numba_buffers import (
    ACTIVATION,
    ACTS,
    AT_STEP,
    AVERAGE,
    BACK,
    DELTA,
    EPS_ABS,
    EPS_REL,
    FACTS,
    HIDDEN_PRIOR,
    HIDDEN_WEIGHT,
    OF_STEP,
    PRE,
    PREDICTED_INPUT,
    PREDICTS,
    RATE,
    RAW,
    REGRESSION,
    REPLAYS,
    RHO,
    SHARE,
    SHARE_OF_BIAS,
    STEP_ACTS,
    STEP_GOAL,
    STEP_PRE,
    STEP_SCALE,
    STEP_WEIGHT,
    TARGET_MEAN,
    TARGET_VAR,
    Buffers,
    U,
)
from .numba_kernels import (
    Real,
    Reals,
    count,
    cross_entropy,
    forward,
    forward_both,
    multiply,
    padded,
    scale,
    slope,
    softmax,
    sound,
    step_and_back,
    step_first,
)
from .numba_stack import clip_to_range

#: Bound of a learning rate times a weight; beyond it a parameter would become infinite.
LARGEST_RATE = 1e12


@jit
def next_weight(weight: float, rho: float) -> float:
    """Return the weight of moments after one more step; its inverse is ``1 − ρ_t``."""
    return min(weight + 1.0, 1.0 / (1.0 - rho)) if rho < 1.0 else weight + 1.0


@jit_inline
def first_expert(b: Buffers, k: int) -> int:
    """Return the place of the first expert of trajectory k among all experts."""
    place = 0
    for i in range(k):
        place += int(b.trajectories[RAW, i] != 0.0) + int(b.trajectories[AVERAGE, i] >= 0.0)
    return place


@jit_inline
def run(b: Buffers, k: int, r: int, thread: int) -> bool:
    """Run trajectory k on a row, and write its predictions; return whether it can take the step.

    ``b.lost[r, k]`` tells whether it has diverged: it cannot, or a prediction is not sound.
    """
    facts = b.facts[r]
    able = b.trajectories[RATE, k] * facts[FACTS + STEP_WEIGHT] < LARGEST_RATE
    predicts = facts[PREDICTS] != 0.0
    if k < b.params.shape[0]:
        able = _run_network(b, k, r, thread, predicts) and able
    else:
        if predicts:
            _predict_linear(b, k, r, thread)
        z, first = b.entered[r, PREDICTED_INPUT + 1], first_logit(b)
        weight, bias = _linear(b, k)
        multiply(weight, bias, z, b.scratch[thread, STEP_PRE, first:])
        able = able and sound(z) and sound(b.scratch[thread, STEP_PRE, first : first + b.sizes[-1]])
    lost = not able
    if predicts or b.hedge.shape[1] > 3:
        for i in range(first_expert(b, k), first_expert(b, k + 1)):
            lost = lost or math.isnan(b.found[r, i, 0] if predicts else b.outputs[i, 0])
    b.lost[r, k] = lost
    return bool(able)


@jit_inline
def _run_network(b: Buffers, k: int, r: int, thread: int, predicts: bool) -> bool:
    """Run a network on the input of a step, and for a prediction; return whether the step's run is sound."""
    space = b.scratch[thread]
    z, acts, pre = b.entered[r, PREDICTED_INPUT + 1], space[STEP_ACTS], space[STEP_PRE]
    if predicts and b.trajectories[RAW, k] != 0.0:
        of_prediction = b.entered[r, PREDICTED_INPUT]
        forward_both(
            b.params[k], b.sizes, b.config[ACTIVATION], of_prediction, space[ACTS], space[PRE], z, acts, pre
        )
        _read_network(b, r, thread, b.found[r, first_expert(b, k)])
    else:
        forward(b.params[k], b.sizes, b.config[ACTIVATION], z, acts, pre)
    if predicts:
        _predict_by_mean(b, k, r, thread)
    return sound(z) and sound(pre)


@jit_inline
def _predict_by_mean(b: Buffers, k: int, r: int, thread: int) -> None:
    """Write the prediction of the running mean of network k, if it has one."""
    mean, space = int(b.trajectories[AVERAGE, k]), b.scratch[thread]
    if mean >= 0:
        z = b.entered[r, PREDICTED_INPUT]
        forward(b.average[mean], b.sizes, b.config[ACTIVATION], z, space[ACTS], space[PRE])
        _read_network(b, r, thread, b.found[r, first_expert(b, k) + int(b.trajectories[RAW, k] != 0.0)])


@jit_inline
def _predict_linear(b: Buffers, k: int, r: int, thread: int) -> None:
    """Write the prediction of a linear model."""
    z, space, first = b.entered[r, PREDICTED_INPUT], b.scratch[thread], first_logit(b)
    weight, bias = _linear(b, k)
    multiply(weight, bias, z, space[PRE, first:])
    outs = space[PRE, first : first + b.sizes[-1]]
    _read(b, r, sound(z) and sound(outs), outs, space[DELTA], b.found[r, first_expert(b, k)])


@jit_inline
def _linear(b: Buffers, k: int) -> tuple[Reals, Reals]:
    """Return weights and bias of a linear model."""
    params, width, c = b.linear[k - b.params.shape[0]], b.entered.shape[2], b.sizes[-1]
    return params[: c * width].reshape(c, width), params[c * width :]


@jit
def predict_member(b: Buffers, k: int, r: int) -> None:
    """Write the predictions of trajectory k for row r, in the working space of the first thread."""
    thread = int(np.int64(0))  # a literal would make numba compile the functions once more
    if k >= b.params.shape[0]:
        _predict_linear(b, k, r, thread)
        return
    if b.trajectories[RAW, k] != 0.0:
        z, space = b.entered[r, PREDICTED_INPUT], b.scratch[thread]
        forward(b.params[k], b.sizes, b.config[ACTIVATION], z, space[ACTS], space[PRE])
        _read_network(b, r, thread, b.found[r, first_expert(b, k)])
    _predict_by_mean(b, k, r, thread)


@jit_inline
def first_logit(b: Buffers) -> int:
    """Return the place of the outputs of a network among the pre-activations of its layers."""
    place = 0
    for layer in range(1, b.sizes.shape[0] - 1):
        place += padded(b.sizes[layer])
    return place


@jit_inline
def _read_network(b: Buffers, r: int, thread: int, found: NDArray[np.float64]) -> None:
    """Write the prediction of the network that ran for row r; NaN if it is not sound."""
    space, first = b.scratch[thread], first_logit(b)
    is_sound = sound(b.entered[r, PREDICTED_INPUT]) and sound(space[PRE])
    _read(b, r, is_sound, space[PRE, first : first + b.sizes[-1]], space[DELTA], found)


@jit_inline
def _read(b: Buffers, r: int, is_sound: bool, outs: Reals, part: Reals, found: NDArray[np.float64]) -> None:
    if is_sound:
        read_outputs(b, r, outs, part, found)
    else:
        found[0] = math.nan


@jit_inline
def read_outputs(b: Buffers, r: int, outs: Reals, part: Reals, found: NDArray[np.float64]) -> None:
    """Write the prediction of outputs: probabilities, or a number in the range of targets seen, widened."""
    if b.config[REGRESSION]:
        facts = b.facts[r]
        found[0] = clip_to_range(facts, facts[TARGET_MEAN] + math.sqrt(facts[TARGET_VAR]) * outs[0])
    else:
        softmax(outs, part, found)


@jit_inline
def step(b: Buffers, k: int, r: int, thread: int, able: bool) -> None:
    """Take the steps of trajectory k after `run`: of the row, if it is `able`, and of what it replays."""
    if k >= b.params.shape[0]:
        if able:
            _step_linear(b, k, r, thread)
        return
    space, steps = b.scratch[thread], (b.entered.shape[1] - 1) // 2
    for i in range(steps if b.trajectories[REPLAYS, k] != 0.0 else 1):
        if i > 0:
            z = b.entered[r, 2 * i + 1]
            forward(b.params[k], b.sizes, b.config[ACTIVATION], z, space[STEP_ACTS], space[STEP_PRE])
            able = sound(z) and sound(space[STEP_PRE])
        if able:
            _step_network(b, k, r, i, thread)
    if b.trajectories[AVERAGE, k] >= 0.0:
        share = b.params.dtype.type(average_share(int(b.facts[r, AT_STEP])))
        if share > 0.0:
            mean, latest = b.average[int(b.trajectories[AVERAGE, k])], b.params[k]
            for i in range(mean.shape[0]):
                mean[i] += share * (latest[i] - mean[i])


@jit_inline
def output_gradient(b: Buffers, outs: Reals, goal: float, delta: Reals) -> None:
    """Write the gradient of the loss at outputs."""
    real = b.params.dtype.type
    if b.config[REGRESSION]:
        delta[0] = min(max(outs[0] - real(goal), real(-ERROR_CLIP)), real(ERROR_CLIP))
    else:
        cross_entropy(outs, int(goal), delta)


@jit_inline
def _step_linear(b: Buffers, k: int, r: int, thread: int) -> None:
    """Step a linear model, right after it ran."""
    real, space, facts = b.params.dtype.type, b.scratch[thread], b.facts[r]
    c, first = b.sizes[-1], first_logit(b)
    weight, bias = _linear(b, k)
    output_gradient(b, space[STEP_PRE, first : first + c], facts[FACTS + STEP_GOAL], space[DELTA])
    rate = real(b.trajectories[RATE, k] * facts[FACTS + STEP_WEIGHT])
    share, of_bias = real(facts[FACTS + SHARE]), real(facts[FACTS + SHARE_OF_BIAS])
    step_first(weight, bias, space[DELTA, :c], b.entered[r, 2], rate * share, rate * of_bias, b.live[thread])


@jit_inline
def _step_network(b: Buffers, k: int, r: int, i: int, thread: int) -> None:
    """Back-propagate through network k, right after it ran for step i of a row, and step layer by layer."""
    real, facts, at = b.params.dtype.type, b.facts[r], FACTS + OF_STEP * i
    s, config, sizes, space = b.scalars, b.config, b.sizes, b.scratch[thread]
    acts, pre, u, delta, back = space[STEP_ACTS], space[STEP_PRE], space[U], space[DELTA], space[BACK]
    start, offset = first_logit(b), b.params.shape[1]
    output_gradient(b, pre[start : start + sizes[-1]], facts[at + STEP_GOAL], delta)
    rate = real(b.trajectories[RATE, k] * facts[at + STEP_WEIGHT])
    last = delta[0] * delta[0]
    if sizes.shape[0] > 2:
        before = b.trajectories[HIDDEN_WEIGHT, k]
        b.trajectories[HIDDEN_WEIGHT, k] = next_weight(before, s[RHO])
        b.trajectories[HIDDEN_PRIOR, k] *= (b.trajectories[HIDDEN_WEIGHT, k] - 1.0) / before
    for layer in range(sizes.shape[0] - 2, -1, -1):
        n, m = sizes[layer], sizes[layer + 1]
        width = padded(n)
        offset -= m * width + padded(m)
        matrix = b.params[k, offset : offset + m * width].reshape(m, width)
        bias = b.params[k, offset + m * width : offset + m * width + m]
        rate_here = rate / _gain(delta[:m], last) if config[REGRESSION] else rate
        if layer == 0:
            share, of_bias = real(facts[at + SHARE]), real(facts[at + SHARE_OF_BIAS])
            direction = b.entered[r, 2 * i + 2]
            live = b.live[thread]
            step_first(matrix, bias, delta[:m], direction, rate_here * share, rate_here * of_bias, live)
            return
        start -= width
        h = acts[start : start + width]
        mean, var = b.hidden[0, k, start : start + width], b.hidden[1, k, start : start + width]
        count(mean, var, h, b.trajectories[HIDDEN_WEIGHT, k])
        q, q_bias = scale(mean, var, h, n, s[EPS_REL], s[EPS_ABS], config[STEP_SCALE], u)
        step_and_back(matrix, bias, delta[:m], u, rate_here * q, rate_here * q_bias, b.live[thread], back)
        slope(config[ACTIVATION], pre[start : start + n], h, back, delta)


@jit
def _gain(delta: Reals, last: Real) -> Real:
    """Return the gain of a layer, ``max(1, ‖δ_l‖²/‖δ_L‖²)``: the amplification of its step at the output."""
    total = delta.dtype.type(0.0)
    for i in range(delta.shape[0]):
        total += delta[i] * delta[i]
    one = delta.dtype.type(1.0)
    return max(one, total / last) if last > 0.0 else one
