"""Arithmetic of the numba step.

With one sample in a step the gradient of a layer is ``δ hᵀ``, so BNP needs no separate pass over the weights:
with ``u = (h − μ)/σ̃²`` the step is ``W ← W − s δ uᵀ``, ``b ← b − s (1 − μᵀu) δ``. One sweep over W computes
``Wᵀδ`` and takes the step. Rows are views, which shows the vectorizer that they are contiguous.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..jit import jit

#: float32, or float64 for tests of exactness.
Reals: TypeAlias = NDArray[np.floating[Any]]
Real: TypeAlias = float | np.floating[Any]

#: Bound of the inputs and pre-activations of a sound network.
LARGEST = 1e18
RELU, TANH, GELU = range(3)
NORM, PAPER, NONE = range(3)
#: Rows of weights begin at multiples of this number of values.
GRAIN = 16
#: Samples in a block of the memory. Within a block each input is a row, so distances are added for all
#: samples of the block at once.
BLOCK = 128


@jit
def padded(count: int) -> int:
    """Return the allocated length of a row."""
    return (count + GRAIN - 1) // GRAIN * GRAIN


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
def forward(params: Reals, sizes: NDArray[np.int64], activation: int, acts: Reals, pre: Reals) -> None:
    """Run a network on ``acts[:n]``; write pre-activations to `pre` (outputs last), activations to `acts`."""
    layers = sizes.shape[0] - 1
    offset = 0
    start = 0
    for layer in range(layers):
        n, m = sizes[layer], sizes[layer + 1]
        width = padded(n)
        weight = params[offset : offset + m * width].reshape(m, width)
        offset += m * width
        out = pre[start + n : start + n + m]
        multiply(weight, params[offset : offset + m], acts[start : start + n], out)
        if layer < layers - 1:
            _activate(activation, out, acts[start + n : start + n + m])
        offset += padded(m)
        start += n


@jit
def multiply(weight: Reals, bias: Reals, h: Reals, out: Reals) -> None:
    """Write ``Wh + b``, four rows at a time: h is loaded once for all, and the final sums overlap (−28%)."""
    zero = h.dtype.type(0.0)
    whole = weight.shape[0] // 4 * 4
    for i in range(0, whole, 4):
        row0, row1, row2, row3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
        sum0, sum1, sum2, sum3 = zero, zero, zero, zero
        for j in range(h.shape[0]):
            x = h[j]
            sum0 += row0[j] * x
            sum1 += row1[j] * x
            sum2 += row2[j] * x
            sum3 += row3[j] * x
        out[i], out[i + 1], out[i + 2], out[i + 3] = sum0, sum1, sum2, sum3
    for i in range(whole, weight.shape[0]):
        row, total = weight[i], zero
        for j in range(h.shape[0]):
            total += row[j] * h[j]
        out[i] = total
    for i in range(bias.shape[0]):
        out[i] += bias[i]


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
    mean: Reals, var: Reals, h: Reals, eps_rel: float, eps_abs: float, kind: int, u: Reals
) -> tuple[Real, Real]:
    """Write ``u = (h − μ)/σ̃²``; return ``1/q²`` and the factor of the bias, ``(1 − μᵀu)/q²``."""
    real = mean.dtype.type
    damping = real(eps_rel) * _greatest(var, real(0.0)) + real(eps_abs)
    norm, along = real(1.0), real(0.0)
    for j in range(h.shape[0]):
        centred = h[j] - mean[j]
        u[j] = centred / (var[j] + damping)
        norm += centred * u[j]
        along += mean[j] * u[j]
    if kind == PAPER:
        norm = real(max(h.shape[0], 1))
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


@jit
def step_first(
    weight: Reals,
    bias: Reals,
    delta: Reals,
    u: Reals,
    rate: Real,
    rate_bias: Real,
    live: NDArray[np.int64],
) -> None:
    """Take the step of the first layer, whose input needs no gradient."""
    for a in range(_find_live(delta, live)):
        i = live[a]
        row, s = weight[i], rate * delta[i]
        for j in range(row.shape[0]):
            row[j] -= s * u[j]
    for i in range(bias.shape[0]):
        bias[i] -= rate_bias * delta[i]


@jit
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

    Pairs of rows halve the loads and stores of `back` (a fifth of the time).
    """
    for j in range(back.shape[0]):
        back[j] = 0.0
    count = _find_live(delta, live)
    for a in range(0, count - 1, 2):
        i0, i1 = live[a], live[a + 1]
        row0, d0, row1, d1 = weight[i0], delta[i0], weight[i1], delta[i1]
        s0, s1 = rate * d0, rate * d1
        for j in range(back.shape[0]):
            w0, w1, x = row0[j], row1[j], u[j]
            back[j] += d0 * w0 + d1 * w1
            row0[j] = w0 - s0 * x
            row1[j] = w1 - s1 * x
    if count % 2 == 1:
        i = live[count - 1]
        row, d, s = weight[i], delta[i], rate * delta[i]
        for j in range(back.shape[0]):
            w = row[j]
            back[j] += d * w
            row[j] = w - s * u[j]
    for i in range(bias.shape[0]):
        bias[i] -= rate_bias * delta[i]
