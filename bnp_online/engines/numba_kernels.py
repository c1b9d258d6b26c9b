"""Arithmetic of the numba step.

With one sample in a step the gradient of a layer is ``δ hᵀ``, so BNP needs no separate pass over the weights:
with ``u = (h − μ)/σ̃²`` the step is ``W ← W − s δ uᵀ``, ``b ← b − s (1 − μᵀu) δ``. One sweep over W computes
``Wᵀδ`` and takes the step.

The parts of a network that belong to a layer begin at padded places: weights, activations, moments. The
padding has zeros, which a step does not change.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_exact
from .numba_lanes import LANES, load, multiply_add, spread, store, store_totals

#: float32, or float64 for tests of exactness.
Reals: TypeAlias = NDArray[np.floating[Any]]
Real: TypeAlias = float | np.floating[Any]

#: Bound of the inputs and pre-activations of a sound network.
LARGEST = 1e18
RELU, TANH, GELU = range(3)
NORM, PAPER, NONE = range(3)
#: Samples in a block of the memory. Within a block each input is a row, so distances are added for all
#: samples of the block at once.
BLOCK = 128


@jit
def padded(count: int) -> int:
    """Return the allocated length of a row: whole vectors, with zeros at its end."""
    return (count + LANES - 1) // LANES * LANES


@jit
def assign(target: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy a vector; ``target[:] = source`` would check for overlaps, and allocate for one."""
    for j in range(target.shape[0]):
        target[j] = source[j]


@jit
def same(x: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether two vectors are equal; NaN differs from everything."""
    differ = 0
    for j in range(x.shape[0]):
        differ += x[j] != other[j]
    return differ == 0


@jit
def count(mean: Reals, var: Reals, x: Reals, weight: float) -> None:
    """Count a vector into moments that then average over `weight` steps; NaN stands for the mean."""
    new = mean.dtype.type(1.0 / weight)
    old = mean.dtype.type(1.0 - 1.0 / weight)
    for j in range(mean.shape[0]):
        difference = mean.dtype.type(0.0) if math.isnan(x[j]) else x[j] - mean[j]
        var[j] = old * var[j] + old * new * difference * difference
        mean[j] += new * difference


@jit
def standardize(mean: Reals, var: Reals, x: Reals, clip: float, z: Reals) -> None:
    """Write ``(x − μ)/σ``, clipped, to `z`; 0 where σ is 0 or x is NaN. A clip of 0 only replaces NaN."""
    for j in range(x.shape[0]):
        value = mean[j] if math.isnan(x[j]) else x[j]
        if clip > 0.0:
            value = (value - mean[j]) / math.sqrt(var[j]) if var[j] > 0.0 else 0.0
            value = min(max(value, -clip), clip)
        z[j] = value


@jit
def forward(
    params: Reals, sizes: NDArray[np.int64], activation: int, z: Reals, acts: Reals, pre: Reals
) -> None:
    """Run a network on an input; write pre-activations (outputs last) to `pre`, activations to `acts`."""
    layers = sizes.shape[0] - 1
    offset, start, h = 0, 0, z
    for layer in range(layers):
        n, m = padded(sizes[layer]), sizes[layer + 1]
        weight, bias = params[offset : offset + m * n].reshape(m, n), params[offset + m * n :]
        multiply(weight, bias, h, pre[start:])
        if layer < layers - 1:
            _activate(activation, pre[start : start + m], acts[start : start + m])
        h = acts[start : start + padded(m)]
        offset += m * n + padded(m)
        start += padded(m)


@jit
def forward_both(
    params: Reals,
    sizes: NDArray[np.int64],
    activation: int,
    z: Reals,
    acts: Reals,
    pre: Reals,
    other_z: Reals,
    other_acts: Reals,
    other_pre: Reals,
) -> None:
    """Run a network on two inputs, with the results of `forward` for each, in one sweep over its weights."""
    layers = sizes.shape[0] - 1
    offset, start, h, other_h = 0, 0, z, other_z
    for layer in range(layers):
        n, m = padded(sizes[layer]), sizes[layer + 1]
        weight, bias = params[offset : offset + m * n].reshape(m, n), params[offset + m * n :]
        multiply_both(weight, bias, h, pre[start:], other_h, other_pre[start:])
        if layer < layers - 1:
            _activate(activation, pre[start : start + m], acts[start : start + m])
            _activate(activation, other_pre[start : start + m], other_acts[start : start + m])
        h, other_h = acts[start : start + padded(m)], other_acts[start : start + padded(m)]
        offset += m * n + padded(m)
        start += padded(m)


@jit_exact
def multiply(weight: Reals, bias: Reals, h: Reals, out: Reals) -> None:
    """Write ``Wh + b``, four rows at a time: h is loaded once for all, and their sums are added together.

    Without four more rows, the last one is repeated: the padding of `out` receives its sum.
    """
    last = weight.shape[0] - 1
    for i in range(0, weight.shape[0], 4):
        row0, row1 = weight[i], weight[min(i + 1, last)]
        row2, row3 = weight[min(i + 2, last)], weight[min(i + 3, last)]
        sum0 = spread(h.dtype.type(0.0))
        sum1, sum2, sum3 = sum0, sum0, sum0
        for j in range(0, weight.shape[1], LANES):
            x = load(h, j)
            sum0 = multiply_add(load(row0, j), x, sum0)
            sum1 = multiply_add(load(row1, j), x, sum1)
            sum2 = multiply_add(load(row2, j), x, sum2)
            sum3 = multiply_add(load(row3, j), x, sum3)
        store_totals(out, i, bias, sum0, sum1, sum2, sum3)


@jit_exact
def multiply_both(weight: Reals, bias: Reals, h: Reals, out: Reals, other_h: Reals, other_out: Reals) -> None:
    """Write what `multiply` does, for two vectors at a time: the weights are loaded once."""
    last = weight.shape[0] - 1
    for i in range(0, weight.shape[0], 4):
        row0, row1 = weight[i], weight[min(i + 1, last)]
        row2, row3 = weight[min(i + 2, last)], weight[min(i + 3, last)]
        sum0 = spread(h.dtype.type(0.0))
        sum1, sum2, sum3 = sum0, sum0, sum0
        other0, other1, other2, other3 = sum0, sum0, sum0, sum0
        for j in range(0, weight.shape[1], LANES):
            x, y = load(h, j), load(other_h, j)
            w0, w1, w2, w3 = load(row0, j), load(row1, j), load(row2, j), load(row3, j)
            sum0, other0 = multiply_add(w0, x, sum0), multiply_add(w0, y, other0)
            sum1, other1 = multiply_add(w1, x, sum1), multiply_add(w1, y, other1)
            sum2, other2 = multiply_add(w2, x, sum2), multiply_add(w2, y, other2)
            sum3, other3 = multiply_add(w3, x, sum3), multiply_add(w3, y, other3)
        store_totals(out, i, bias, sum0, sum1, sum2, sum3)
        store_totals(other_out, i, bias, other0, other1, other2, other3)


@jit
def _activate(activation: int, pre: Reals, out: Reals) -> None:
    real = pre.dtype.type
    for i in range(pre.shape[0]):
        if activation == RELU:
            out[i] = max(pre[i], real(0.0))
        elif activation == TANH:
            out[i] = math.tanh(pre[i])
        else:
            out[i] = real(0.5) * pre[i] * (real(1.0) + math.erf(pre[i] * real(math.sqrt(0.5))))


@jit
def slope(activation: int, pre: Reals, out: Reals, back: Reals, delta: Reals) -> None:
    """Write the gradient before the activation."""
    real = pre.dtype.type
    for i in range(pre.shape[0]):
        if activation == RELU:
            delta[i] = back[i] if pre[i] > real(0.0) else real(0.0)
        elif activation == TANH:
            delta[i] = back[i] * (real(1.0) - out[i] * out[i])
        else:
            density = math.exp(real(-0.5) * pre[i] * pre[i]) * real(1.0 / math.sqrt(2.0 * math.pi))
            share = real(0.5) * (real(1.0) + math.erf(pre[i] * real(math.sqrt(0.5))))
            delta[i] = back[i] * (share + pre[i] * density)


@jit
def sound(x: Reals) -> bool:
    """Return whether all entries are so small that a variance of them is finite in float32."""
    largest = x.dtype.type(LARGEST)
    unsound = 0
    for i in range(x.shape[0]):  # an early return would prevent vectorization
        unsound += not abs(x[i]) < largest
    return unsound == 0


@jit
def _greatest(x: Reals, top: Real) -> Real:
    """Return the greatest entry, or `top`, in four chains: comparisons in one chain wait for each other."""
    top0, top1, top2, top3 = top, top, top, top
    whole = x.shape[0] // 4 * 4
    for j in range(0, whole, 4):
        top0, top1 = max(top0, x[j]), max(top1, x[j + 1])
        top2, top3 = max(top2, x[j + 2]), max(top3, x[j + 3])
    for j in range(whole, x.shape[0]):
        top0 = max(top0, x[j])
    return max(max(top0, top1), max(top2, top3))


@jit
def cross_entropy(logits: Reals, label: int, delta: Reals) -> None:
    """Write the gradient of the cross-entropy of a softmax."""
    top = _greatest(logits, logits[0])
    total = logits.dtype.type(0.0)
    for i in range(logits.shape[0]):
        delta[i] = math.exp(logits[i] - top)
        total += delta[i]
    for i in range(logits.shape[0]):
        delta[i] /= total
    delta[label] -= logits.dtype.type(1.0)


@jit
def softmax(logits: Reals, part: Reals, out: NDArray[np.float64]) -> None:
    """Write the probabilities, in float64; `part` is working space."""
    top = _greatest(logits, logits[0])
    total = 0.0
    for i in range(logits.shape[0]):
        part[i] = math.exp(logits[i] - top)
        total += part[i]
    for i in range(logits.shape[0]):
        out[i] = part[i] / total


@jit
def scale(
    mean: Reals, var: Reals, h: Reals, size: int, eps_rel: float, eps_abs: float, kind: int, u: Reals
) -> tuple[Real, Real]:
    """Write ``u = (h − μ)/σ̃²``; return ``1/q²`` and the factor of the bias, ``(1 − μᵀu)/q²``.

    The vectors may be padded; `size` is the number of values.
    """
    real = mean.dtype.type
    damping = real(eps_rel) * _greatest(var, real(0.0)) + real(eps_abs)
    norm, along = real(1.0), real(0.0)
    for j in range(h.shape[0]):
        centred = h[j] - mean[j]
        u[j] = centred / (var[j] + damping)
        norm += centred * u[j]
        along += mean[j] * u[j]
    if kind == PAPER:
        norm = real(max(size, 1))
    elif kind == NONE:
        norm = real(1.0)
    return real(1.0) / norm, (real(1.0) - along) / norm


@jit
def _find_live(delta: Reals, live: NDArray[np.int64]) -> int:
    """List the units with a gradient; return their number.

    Half of the units of a ReLU layer are dead, without a pattern. A branch on each would be mispredicted so
    often that it costs as much as the step of a layer of 64 inputs. This loop has no branch.
    """
    count = 0
    for i in range(delta.shape[0]):
        live[count] = i
        count += delta[i] != 0.0
    return count


@jit_exact
def step_first(
    weight: Reals,
    bias: Reals,
    delta: Reals,
    u: Reals,
    rate: Real,
    rate_bias: Real,
    live: NDArray[np.int64],
) -> None:
    """Take the step of the first layer, whose input needs no gradient: four rows at a time."""
    count, width = _find_live(delta, live), weight.shape[1]
    whole = count // 4 * 4
    for a in range(0, whole, 4):
        i0, i1, i2, i3 = live[a], live[a + 1], live[a + 2], live[a + 3]
        row0, row1, row2, row3 = weight[i0], weight[i1], weight[i2], weight[i3]
        s0, s1 = spread(-rate * delta[i0]), spread(-rate * delta[i1])
        s2, s3 = spread(-rate * delta[i2]), spread(-rate * delta[i3])
        for j in range(0, width, LANES):
            x = load(u, j)
            store(row0, j, multiply_add(s0, x, load(row0, j)))
            store(row1, j, multiply_add(s1, x, load(row1, j)))
            store(row2, j, multiply_add(s2, x, load(row2, j)))
            store(row3, j, multiply_add(s3, x, load(row3, j)))
    for a in range(whole, count):
        row, s = weight[live[a]], spread(-rate * delta[live[a]])
        for j in range(0, width, LANES):
            store(row, j, multiply_add(s, load(u, j), load(row, j)))
    for i in range(delta.shape[0]):
        bias[i] -= rate_bias * delta[i]


@jit_exact
def step_and_back(
    weight: Reals,
    bias: Reals,
    delta: Reals,
    u: Reals,
    rate: Real,
    rate_bias: Real,
    live: NDArray[np.int64],
    back: Reals,
) -> None:
    """Write ``Wᵀδ`` to `back`, with W from before the step, and take the step, in one sweep over W.

    With four rows at a time, `back` is loaded and stored a quarter as often.
    """
    zero, width = spread(delta.dtype.type(0.0)), weight.shape[1]
    for j in range(0, width, LANES):
        store(back, j, zero)
    count = _find_live(delta, live)
    whole = count // 4 * 4
    for a in range(0, whole, 4):
        i0, i1, i2, i3 = live[a], live[a + 1], live[a + 2], live[a + 3]
        row0, row1, row2, row3 = weight[i0], weight[i1], weight[i2], weight[i3]
        d0, d1, d2, d3 = spread(delta[i0]), spread(delta[i1]), spread(delta[i2]), spread(delta[i3])
        s0, s1 = spread(-rate * delta[i0]), spread(-rate * delta[i1])
        s2, s3 = spread(-rate * delta[i2]), spread(-rate * delta[i3])
        for j in range(0, width, LANES):
            w0, w1, w2, w3 = load(row0, j), load(row1, j), load(row2, j), load(row3, j)
            x, total = load(u, j), multiply_add(d0, w0, load(back, j))
            total = multiply_add(d2, w2, multiply_add(d1, w1, total))
            store(back, j, multiply_add(d3, w3, total))
            store(row0, j, multiply_add(s0, x, w0))
            store(row1, j, multiply_add(s1, x, w1))
            store(row2, j, multiply_add(s2, x, w2))
            store(row3, j, multiply_add(s3, x, w3))
    for a in range(whole, count):
        row, d = weight[live[a]], spread(delta[live[a]])
        s = spread(-rate * delta[live[a]])
        for j in range(0, width, LANES):
            w = load(row, j)
            store(back, j, multiply_add(d, w, load(back, j)))
            store(row, j, multiply_add(s, load(u, j), w))
    for i in range(delta.shape[0]):
        bias[i] -= rate_bias * delta[i]
