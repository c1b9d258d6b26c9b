"""The arithmetic of the fused step, compiled by numba.

At one sample a step the gradient of a layer is ``δ hᵀ``, so BNP needs no pass over the weights of its own:
with ``u = (h − μ)/σ̃²`` the step is ``W ← W − s δ uᵀ``, ``b ← b − s (1 − μᵀu) δ``. One sweep over the rows of
W gives ``Wᵀδ`` and makes the step. Rows are taken as views, which shows the vectorizer that they are
contiguous.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..compiling import jit

#: float32, or float64 where exactness is tested.
Reals: TypeAlias = NDArray[np.floating[Any]]
Real: TypeAlias = float | np.floating[Any]

#: Greatest magnitude of an input or pre-activation of a copy that is sound.
LARGEST = 1e18
RELU, TANH, GELU = range(3)
NORM, PAPER, NONE = range(3)


@jit
def count(mean: Reals, var: Reals, x: Reals, weight: float) -> None:
    """Step moments, which then average over `weight` steps, with one vector; NaN stands for the mean."""
    new = mean.dtype.type(1.0 / weight)
    old = mean.dtype.type(1.0 - 1.0 / weight)
    for j in range(mean.shape[0]):
        difference = mean.dtype.type(0.0) if math.isnan(x[j]) else x[j] - mean[j]
        var[j] = old * var[j] + old * new * difference * difference
        mean[j] += new * difference


@jit
def standardize(mean: Reals, var: Reals, x: Reals, clip: float, z: Reals) -> None:
    """Write ``(x − μ)/σ``, clipped, to `z`: 0 where σ is 0 or x is NaN. A clip of 0 leaves x as it is."""
    for j in range(x.shape[0]):
        value = mean[j] if math.isnan(x[j]) else x[j]
        if clip > 0.0:
            value = (value - mean[j]) / math.sqrt(var[j]) if var[j] > 0.0 else 0.0
            value = min(max(value, -clip), clip)
        z[j] = value


@jit
def forward(params: Reals, sizes: NDArray[np.int64], activation: int, acts: Reals, pre: Reals) -> int:
    """Run a network from ``acts[:n]``; write to `pre` and `acts`; return where the outputs start in `pre`."""
    layers = sizes.shape[0] - 1
    offset = 0
    start = 0
    for layer in range(layers):
        n, m = sizes[layer], sizes[layer + 1]
        weight = params[offset : offset + m * n].reshape(m, n)
        bias = params[offset + m * n : offset + m * n + m]
        h, out = acts[start : start + n], pre[start + n : start + n + m]
        for i in range(m):
            row = weight[i]
            total = bias[i]
            for j in range(n):
                total += row[j] * h[j]
            out[i] = total
        if layer < layers - 1:
            _activate(activation, out, acts[start + n : start + n + m])
        offset += m * n + m
        start += n
    return start


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
    """Return whether all entries are finite, and so small that a variance of them is finite in float32."""
    for i in range(x.shape[0]):  # noqa: SIM110 (numba has no generators in all())
        if not abs(x[i]) < LARGEST:
            return False
    return True


@jit
def cross_entropy(logits: Reals, label: int, delta: Reals) -> None:
    """Write the gradient of softmax and cross-entropy."""
    top = logits.max()
    total = logits.dtype.type(0.0)
    for i in range(logits.shape[0]):
        delta[i] = math.exp(logits[i] - top)
        total += delta[i]
    for i in range(logits.shape[0]):
        delta[i] /= total
    delta[label] -= logits.dtype.type(1.0)


@jit
def add_softmax(logits: Reals, weight: float, out: NDArray[np.float64], label: int) -> float:
    """Add `weight` times the probabilities to `out`, in float64; return that of `label` (0 for none)."""
    top = np.float64(logits.max())
    total = 0.0
    for i in range(logits.shape[0]):
        total += math.exp(logits[i] - top)
    p_label = 0.0
    for i in range(logits.shape[0]):
        p = math.exp(logits[i] - top) / total
        out[i] += weight * p
        if i == label:
            p_label = p
    return p_label


@jit
def scale(
    mean: Reals, var: Reals, h: Reals, eps_rel: float, eps_abs: float, kind: int, u: Reals
) -> tuple[Real, Real]:
    """Write ``u = (h − μ)/σ̃²``; return ``1/q²`` and the bias's part ``(1 − μᵀu)/q²``."""
    real = mean.dtype.type
    top = real(0.0)
    for j in range(h.shape[0]):
        top = max(top, var[j])
    damping = real(eps_rel) * top + real(eps_abs)
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
def step_first(weight: Reals, bias: Reals, delta: Reals, u: Reals, rate: Real, rate_bias: Real) -> None:
    """Make the step of the first layer, whose input needs no gradient."""
    for i in range(weight.shape[0]):
        if delta[i] != 0.0:  # a dead unit
            row, s = weight[i], rate * delta[i]
            for j in range(row.shape[0]):
                row[j] -= s * u[j]
            bias[i] -= rate_bias * delta[i]


@jit
def step_and_back(
    weight: Reals, bias: Reals, delta: Reals, u: Reals, rate: Real, rate_bias: Real, back: Reals
) -> None:
    """Write ``Wᵀδ`` to `back`, with W from before the step, and make the step: one sweep over W."""
    back[:] = 0.0
    for i in range(weight.shape[0]):
        row, d = weight[i], delta[i]
        if d != 0.0:
            s = rate * d
            for j in range(row.shape[0]):
                w = row[j]
                back[j] += d * w
                row[j] = w - s * u[j]
            bias[i] -= rate_bias * d
