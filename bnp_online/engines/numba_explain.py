"""Compiled explanation of a prediction: how much each feature moved it.

The base is the input with all values missing: inputs at their running mean, no neighbours, no bins. For each
expert, its change between the base and the input is divided among the features:

- linear models and the model of bins: each term is of one feature, so this is exact;
- networks: the multipliers of DeepLIFT. A unit passes on its change by the ratio of the change of its
  activation to that of its pre-activation;
- neighbours: features become known one after the other, in a drawn order and in the reverse one. Distances
  are summed up as they do, so all steps of an order together take one sweep over the memory.

`numba_pool.slopes` weighs the experts. What its quadrature leaves over is divided in proportion to the sizes
of the contributions, so their sum is the change of the prediction.

References
----------
A. Shrikumar, P. Greenside, A. Kundaje, *Learning important features through propagating activation
differences*, ICML 2017: multipliers.
E. Štrumbelj, I. Kononenko, *An efficient explanation of individual classifications using game theory*,
JMLR 11, 2010: Shapley values from random orders. R. Mitchell, J. Cooper, E. Frank, G. Holmes, *Sampling
permutations for Shapley value estimation*, JMLR 23, 2022: orders and their reverses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_exact, jit_inline
from ..mixture import NEIGHBOURS as TABLE
from .numba_bins import BINS, run_bins
from .numba_buffers import (
    ACTIVATION,
    AVERAGE,
    BINS_DELTA,
    BOUNDED,
    CLASSES,
    HEDGED,
    MIXED,
    NEIGHBOURS,
    PREDICTED,
    PREDICTED_INPUT,
    RAW,
    REGRESSION,
    REMEMBERED,
    SUMS,
    Buffers,
)
from .numba_experts import pool
from .numba_explain_neighbours import attribute_neighbours
from .numba_kernels import Reals, assign, forward, multiply, padded, slope, sound
from .numba_lanes import LANES, load, multiply_add, spread, store
from .numba_members import first_expert, first_logit, read_outputs
from .numba_neighbours import predict_neighbours
from .numba_pool import objective, slopes
from .numba_rows import bound_inputs, note, place

# Entries of `result`: the explained number at the input and at the base, the class.
VALUE, BASE, LABEL, RESULTS = range(4)
# Rows of `runs` of a network: activations and pre-activations at the input, and at the base; working space.
_ACTS, _PRE, _BASE_ACTS, _BASE_PRE, _DELTA, _BACK, RUNS = range(7)
# Rows of `work`: predictions at both ends, logits at both ends, a point between them, gradients, slopes.
_ENDS, _LOGITS, _POINT, _GRADIENT, _SLOPES, WORK = 0, 2, 4, 5, 6, 7
# Rows of `columns`: raw values of the base; contributions of the columns.
_MISSING, _COLUMN, COLUMNS = range(3)
#: Change of a pre-activation from which the ratio of changes replaces the derivative.
_LEAST_CHANGE = 1e-4


@jit
def explain(
    x: NDArray[np.float64],
    groups: NDArray[np.int64],
    label: int,
    orders: int,
    contributions: NDArray[np.float64],
    result: NDArray[np.float64],
    runs: Reals,
    work: NDArray[np.float64],
    space: NDArray[np.float64],
    columns: NDArray[np.float64],
    order: NDArray[np.int64],
    sums: Reals,
    b: Buffers,
) -> bool:
    """Write the contribution of each group of inputs; return whether there is a finite prediction.

    Parameters
    ----------
    x : float64 (n,)
        Raw input; NaN marks a missing value.
    groups : int64 (n,)
        Group of each input.
    label : int
        Class to explain; −1 for the predicted one, and for a regression.
    orders : int
        Number of orders of the groups for the neighbours, each followed by its reverse if it is 2.
    contributions : float64 (G,)
        Receives the contributions.
    result : float64 (3,)
        Receives the explained number at the input and at the base, and the class.
    runs : real (networks and running means, 6, S')
        Working space.
    work, space : float64 (7, K, C), (3, C)
        Working space.
    columns, order : float64 (2, n), int64 (2 G + 1 + n + 40,)
        Working space.
    sums : real (3, S)
        Working space, as ``Buffers.distances``.
    b : Buffers
        Arrays of the learner. Only working space changes.
    """
    if b.outputs.shape[1] == 0 or x.shape[0] != b.sizes[0]:  # untrained, or a call to load the kernel
        return False
    row = int(np.int64(0))  # a literal would make numba compile the functions once more
    b.scalars[PREDICTED] = -1.0  # the working space of the latest prediction is used
    for j in range(x.shape[0]):
        columns[_MISSING, j], columns[_COLUMN, j] = math.nan, 0.0
    for g in range(contributions.shape[0]):
        contributions[g] = 0.0
    note(b, row)
    logits = work[_LOGITS : _LOGITS + 2]
    for end in (1, 0):  # the input last: what it leaves in the working space is used below
        _predict_end(b, x if end == 0 else columns[_MISSING], end, runs, work)
        if not _pool_end(b, work[_ENDS + end]):
            return False
        if end == 1:
            assign(space[0], b.outputs[MIXED])
    mixed, base = b.outputs[MIXED], space[0]
    if b.config[REGRESSION] == 0 and label < 0:
        label = 0
        for c in range(mixed.shape[0]):
            label = c if mixed[c] > mixed[label] else label
    result[LABEL] = label
    result[VALUE], result[BASE] = objective(b, mixed, label), objective(b, base, label)
    ends, of_experts = work[_ENDS : _ENDS + 2], work[_SLOPES]
    slopes(b, b.facts[row], label, ends, logits, work[_POINT], work[_GRADIENT], space, of_experts)
    _attribute_networks(b, runs, ends, logits, of_experts, columns[_COLUMN])
    _attribute_linear(b, ends, logits, of_experts, columns[_COLUMN])
    _attribute_bins(b, ends, logits, of_experts, columns[_COLUMN])
    for j in range(x.shape[0]):
        contributions[groups[j]] += columns[_COLUMN, j]
    if b.config[NEIGHBOURS] and b.scalars[REMEMBERED] > 0.0:
        z = b.entered[row, PREDICTED_INPUT, : b.sizes[0]]
        attribute_neighbours(b, x, z, groups, orders, ends, of_experts, order, sums, contributions)
    _distribute(result[VALUE] - result[BASE], contributions)
    return True


@jit
def _distribute(whole: float, contributions: NDArray[np.float64]) -> None:
    """Add what is missing from the sum of the contributions, in proportion to their sizes."""
    total, size = 0.0, 0.0
    for g in range(contributions.shape[0]):
        total += contributions[g]
        size += abs(contributions[g])
    for g in range(contributions.shape[0]):
        share = abs(contributions[g]) / size if size > 0.0 else 1.0 / contributions.shape[0]
        contributions[g] += (whole - total) * share


@jit_inline
def _predict_end(
    b: Buffers, x: NDArray[np.float64], end: int, runs: Reals, work: NDArray[np.float64]
) -> None:
    """Write predictions and logits of all experts at the input (0) or at the base (1)."""
    row, n = int(np.int64(0)), b.sizes[0]
    ends, logits = work[_ENDS + end], work[_LOGITS + end]
    bound_inputs(b, x)
    z = b.entered[row, PREDICTED_INPUT + end]
    place(b, z[:n])
    first, c, part = first_logit(b), b.sizes[-1], b.scratch[0, 0]
    run, inputs_sound = 0, sound(z)
    for k in range(b.params.shape[0]):
        expert = first_expert(b, k)
        for which in range(2):
            mean = int(b.trajectories[AVERAGE, k])
            if b.trajectories[RAW, k] == 0.0 if which == 0 else mean < 0:
                continue
            acts, pre = runs[run, _ACTS + 2 * end], runs[run, _PRE + 2 * end]
            if which == 0:
                forward(b.params[k], b.sizes, b.config[ACTIVATION], z, acts, pre)
            else:
                forward(b.average[mean], b.sizes, b.config[ACTIVATION], z, acts, pre)
            usable = inputs_sound and sound(pre)
            _read_end(b, usable, pre[first : first + c], part, ends[expert], logits[expert])
            run += 1
            expert += 1
    for k in range(b.params.shape[0], b.trajectories.shape[1]):
        expert, outs = first_expert(b, k), b.scratch[0, 1]
        weight, bias = _linear(b, k)
        multiply(weight, bias, z, outs)
        usable = inputs_sound and sound(outs[:c])
        _read_end(b, usable, outs[:c], part, ends[expert], logits[expert])
    last = ends.shape[0]
    if b.bins.shape[0] > 0:
        last -= 1
        run_bins(b, b.inputs[BOUNDED], z[:n])
        _read_end(b, True, b.common[SUMS, :c], b.common[BINS_DELTA], ends[last], logits[last])
    if b.config[NEIGHBOURS]:
        first_neighbour = last - len(TABLE)
        if end == 0:
            predict_neighbours(b, x, z[:n], ends[first_neighbour:last])
        for e in range(first_neighbour, last):
            for i in range(c):
                logits[e, i] = math.nan
                if end == 1:
                    ends[e, i] = _without_neighbours(b, i)


@jit
def _without_neighbours(b: Buffers, c: int) -> float:
    """Return the prediction of an expert of neighbours without any."""
    if b.config[REGRESSION]:
        return math.nan
    classes = max(b.scalars[CLASSES], 1.0)
    return 1.0 / classes if c < classes else 0.0


@jit_inline
def _read_end(
    b: Buffers,
    usable: bool,
    outs: Reals,
    part: Reals,
    prediction: NDArray[np.float64],
    logits: NDArray[np.float64],
) -> None:
    row = int(np.int64(0))
    if usable:
        read_outputs(b, row, outs, part, prediction)
    else:
        prediction[0] = math.nan
    for c in range(logits.shape[0]):
        logits[c] = outs[c] if usable else math.nan


@jit_inline
def _pool_end(b: Buffers, ends: NDArray[np.float64]) -> bool:
    """Combine the predictions at an end; return whether there is one. An unsound expert gets the hedge's."""
    row = int(np.int64(0))
    for k in range(ends.shape[0]):
        assign(b.outputs[k], ends[k])
    if not pool(b, b.facts[row]):
        return False
    for k in range(ends.shape[0]):
        if math.isnan(ends[k, 0]):
            for c in range(ends.shape[1]):
                ends[k, c] = b.outputs[HEDGED, c]
    return True


@jit
def _linear(b: Buffers, k: int) -> tuple[Reals, Reals]:
    """Return weights and bias of a linear model."""
    params, width, c = b.linear[k - b.params.shape[0]], b.entered.shape[2], b.sizes[-1]
    return params[: c * width].reshape(c, width), params[c * width :]


@jit_inline
def _attribute_networks(
    b: Buffers,
    runs: Reals,
    ends: NDArray[np.float64],
    logits: NDArray[np.float64],
    of_experts: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Add the contributions of the inputs through the networks and their running means to `out`."""
    run = 0
    for k in range(b.params.shape[0]):
        expert = first_expert(b, k)
        for which in range(2):
            mean = int(b.trajectories[AVERAGE, k])
            if b.trajectories[RAW, k] == 0.0 if which == 0 else mean < 0:
                continue
            if _write_slopes(b, ends, logits, of_experts, expert, runs[run, _DELTA]):
                if which == 0:
                    _back(b, b.params[k], runs[run], out)
                else:
                    _back(b, b.average[mean], runs[run], out)
            run += 1
            expert += 1


@jit_inline
def _write_slopes(
    b: Buffers,
    ends: NDArray[np.float64],
    logits: NDArray[np.float64],
    of_experts: NDArray[np.float64],
    expert: int,
    delta: Reals,
) -> bool:
    """Write the slopes of the outputs of an expert; return whether it is sound at both ends."""
    if math.isnan(logits[0, expert, 0]) or math.isnan(logits[1, expert, 0]):
        return False
    real, factor = delta.dtype.type, 1.0
    if b.config[REGRESSION]:  # the prediction is the output in units of the target, clipped
        change = logits[0, expert, 0] - logits[1, expert, 0]
        factor = (ends[0, expert, 0] - ends[1, expert, 0]) / change if abs(change) > 1e-12 else 0.0
    for c in range(ends.shape[2]):
        delta[c] = real(factor * of_experts[expert, c])
    return True


@jit_exact
def pass_back(weight: Reals, delta: Reals, back: Reals) -> None:
    """Write ``Wᵀδ``, four rows at a time."""
    width, count = weight.shape[1], weight.shape[0]
    whole, zero = count // 4 * 4, spread(delta.dtype.type(0.0))
    for j in range(0, width, LANES):
        total = zero
        for i in range(0, whole, 4):
            total = multiply_add(spread(delta[i]), load(weight[i], j), total)
            total = multiply_add(spread(delta[i + 1]), load(weight[i + 1], j), total)
            total = multiply_add(spread(delta[i + 2]), load(weight[i + 2], j), total)
            total = multiply_add(spread(delta[i + 3]), load(weight[i + 3], j), total)
        for i in range(whole, count):
            total = multiply_add(spread(delta[i]), load(weight[i], j), total)
        store(back, j, total)


@jit_inline
def _back(b: Buffers, params: Reals, run: Reals, out: NDArray[np.float64]) -> None:
    """Pass the slopes of the outputs, in ``run[_DELTA]``, back to the inputs by DeepLIFT's multipliers."""
    sizes, row = b.sizes, int(np.int64(0))
    start, offset, delta, back = first_logit(b), params.shape[0], run[_DELTA], run[_BACK]
    for layer in range(sizes.shape[0] - 2, -1, -1):
        n, m = sizes[layer], sizes[layer + 1]
        width = padded(n)
        offset -= m * width + padded(m)
        matrix = params[offset : offset + m * width].reshape(m, width)
        if layer == 0:
            z, base = b.entered[row, PREDICTED_INPUT], b.entered[row, PREDICTED_INPUT + 1]
            pass_back(matrix, delta, b.common[SUMS])
            for j in range(n):
                out[j] += b.common[SUMS, j] * (z[j] - base[j])
            return
        pass_back(matrix, delta, back)
        start -= width
        end = start + n
        acts, base_acts = run[_ACTS, start:end], run[_BASE_ACTS, start:end]
        pre, base_pre = run[_PRE, start:end], run[_BASE_PRE, start:end]
        slope(b.config[ACTIVATION], pre, acts, back[:n], delta[:n])
        for j in range(n):
            change = pre[j] - base_pre[j]
            if abs(change) > _LEAST_CHANGE:
                delta[j] = back[j] * ((acts[j] - base_acts[j]) / change)


@jit_inline
def _attribute_linear(
    b: Buffers,
    ends: NDArray[np.float64],
    logits: NDArray[np.float64],
    of_experts: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Add the contributions of the inputs through the linear models to `out`."""
    row, delta = int(np.int64(0)), b.scratch[0, 0]
    z, base = b.entered[row, PREDICTED_INPUT], b.entered[row, PREDICTED_INPUT + 1]
    for k in range(b.params.shape[0], b.trajectories.shape[1]):
        if _write_slopes(b, ends, logits, of_experts, first_expert(b, k), delta):
            weight, _ = _linear(b, k)
            pass_back(weight, delta, b.common[SUMS])
            for j in range(out.shape[0]):
                out[j] += b.common[SUMS, j] * (z[j] - base[j])


@jit_inline
def _attribute_bins(
    b: Buffers,
    ends: NDArray[np.float64],
    logits: NDArray[np.float64],
    of_experts: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Add the contributions of the inputs through the model of bins to `out`."""
    if b.bins.shape[0] == 0:
        return
    row, delta = int(np.int64(0)), b.scratch[0, 0]
    if not _write_slopes(b, ends, logits, of_experts, ends.shape[1] - 1, delta):
        return
    z = b.entered[row, PREDICTED_INPUT, : b.sizes[0]]
    active = run_bins(b, b.inputs[BOUNDED], z)
    for i in range(1, active):  # the first is the bias
        at = b.live[0, i]
        for c in range(ends.shape[2]):
            out[(at - 1) // BINS] += delta[c] * b.bins[at, c]
