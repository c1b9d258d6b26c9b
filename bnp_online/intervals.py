"""Predictive intervals: an online Bayesian model of a regression's errors, sampled by BNP-SGLD.

A linear layer ``[m, s] = W φ + b`` models the errors of the network's predictions. An error, divided by the
running root mean square of the errors, has a Student t distribution with ν = 4, location m and scale exp(s).
The inputs φ of the layer are the prediction and the features, standardized online: the scale depends on x. It
takes one step of BNP-SGLD for each sample (see `langevin`), with a posterior of about the latest N = 500
samples::

    ŵ ← ŵ − h (P Pᵀ/q²) g + √(2 h/N) (P/q) ξ          q² = n, the paper's scale at one sample

Here g is the gradient of the sample's negative log likelihood, divided by the Fisher information of m and of
s. The *spread* at x is the expected root mean square of the error at x. It uses a window of past values of
``[b, W]``: the mean of ``exp(2 s) + m²`` over them contains the noise and the uncertainty of the parameters.

An interval at level L is ``ŷ ± c_L Φ⁻¹((1 + L)/2) · spread``. The factors c are 1 for Gaussian errors and a
correct model. An update after each sample corrects the factor of each level of a grid. The factors of other
levels are interpolated::

    log c_L ← log c_L + η (miss − (1 − L))

In total, the share of misses is ``1 − L + (log c_L(T) − log c_L(0)) / (η T)`` for any stream. Gibbs and
Candès apply this update to the level; here it applies to the factor.

The moments of P follow the stream, with ρ = 0.99. This biases the posterior, but a drifting stream has no
fixed posterior, and the factors correct the bias.

References
----------
I. Gibbs, E. Candès, *Adaptive conformal inference under distribution shift*, NeurIPS 2021.
A. Angelopoulos, E. Candès, R. Tibshirani, *Conformal PID control for time series prediction*, NeurIPS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import StateError
from .jit import jit, jit_inline
from .values import Vector

_Reals = NDArray[np.float64]

#: Levels whose intervals are corrected by their coverage.
LEVELS = np.array([0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
#: Steps before the first interval.
FIRST = 20
#: Position of the level that is scored, in `LEVELS`; and the level.
_SCORED = 3
SCORED_LEVEL = 0.9
#: Rate h, and number N of samples of the posterior.
_RATE, _SAMPLES = 0.02, 500.0
#: Steps between two stored samples of the parameters.
_EVERY = 4
#: Rate η of the factors.
_ETA = 0.05
#: Retention weight of the moments of P and of the mean squared error; damping of the variances.
_RHO, _EPS_REL, _EPS_ABS = 0.99, 1e-2, 1e-4
#: Degrees of freedom ν of the errors.
_NU = 4.0
#: Bounds of standardized inputs, of errors, and of the logarithms of scales and of factors.
_CLIP, _ERROR_CLIP, _LOG_CLIP = 5.0, 10.0, 4.0

#: Entries of the scalars: mean of the predictions; number of samples; variance of the predictions; mean
#: squared error and its weight; weight of the moments of P; number of steps.
PREDICTION, COUNT, PREDICTION_VAR, ERROR, ERROR_WEIGHT, MOMENTS_WEIGHT, STEPS = range(7)
SCALARS = 7

_PREFIX = "intervals."
#: Bound of all numbers in a state, whose squares are finite; of variances and squared errors of values and
#: targets, which lie within ±1e100.
_LARGEST, _LARGEST_SQUARE = 1e150, 1e202
_MOST = 2**53


def _quantile(level: float) -> float:
    """Return the half-width, in standard deviations, of the interval of a Gaussian at a level."""
    return NormalDist().inv_cdf(min((1.0 + level) / 2.0, math.nextafter(1.0, 0.0)))


_QUANTILES = np.array([_quantile(level) for level in LEVELS])


class ScoredIntervals(NamedTuple):
    """Widths of intervals at `SCORED_LEVEL`, and whether each contained its target (1.0 or 0.0).

    Both are NaN for a sample before the first interval.
    """

    widths: Vector
    covered: Vector


class Intervals:
    """State of the intervals of one regression.

    Parameters
    ----------
    window : int
        Number of stored samples of the parameters, ≥ 1; every fourth step stores one.
    seed : int
        Seed of the noise.
    inputs : int
        Number of features.
    """

    def __init__(self, window: int, seed: int, inputs: int = 0) -> None:
        self.window = window
        self._seed = seed
        self._scalars = np.zeros(SCALARS)
        self._inputs = np.zeros((2, inputs))
        self._moments = np.stack([np.zeros(inputs + 1), np.ones(inputs + 1)])
        self._params = np.zeros((2, inputs + 2))
        self._samples = np.zeros((window, 2, inputs + 2))
        self._factors = np.zeros(len(LEVELS))
        # Compiles, or loads from the cache, before the first sample.
        nothing = np.zeros(0)
        self.learn(np.zeros((0, inputs)), nothing, nothing, nothing)

    def grow(self, count: int) -> None:
        """Append features; their past values count as 0."""
        pad = ((0, 0), (0, count))
        self._inputs = np.pad(self._inputs, pad)
        self._moments = np.pad(self._moments, pad)
        self._moments[1, self._moments.shape[1] - count :] = 1.0
        self._params = np.pad(self._params, pad)
        self._samples = np.pad(self._samples, ((0, 0), *pad))

    def learn(self, x: Vector, targets: Vector, predictions: Vector, weights: Vector) -> ScoredIntervals:
        """Learn from the errors of predictions, in order; score the interval before each step.

        Parameters
        ----------
        x : array of shape (N, inputs)
            Raw features; NaN stands for a missing value.
        targets, predictions, weights : arrays of shape (N,)
            The predictions were made before learning; NaN stands for no prediction.
        """
        scratch, scored = np.empty((3, self._params.shape[1])), np.full((2, len(targets)), np.nan)
        _learn(x, targets, predictions, weights, self._seed, _QUANTILES, scratch, scored, *self._arrays())
        return ScoredIntervals(scored[0], scored[1])

    def radius(self, x: Vector, prediction: float, level: float) -> float | None:
        """Return half the width of the interval around a prediction; None before 20 samples.

        Parameters
        ----------
        x : array of shape (inputs,)
            Raw features.
        prediction : float
            The prediction.
        level : float
            In (0, 1).
        """
        if self._scalars[STEPS] < FIRST:
            return None
        scratch = np.empty((3, self._params.shape[1]))
        spread = _spread_at(x, prediction, scratch, self._scalars, self._inputs, self._samples)
        return spread * self._multiple(level)

    def _multiple(self, level: float) -> float:
        """Return the multiple of the spread at a level; it never falls with the level."""
        # Where the factors of two levels cross, the higher level has the interval of the lower.
        multiples = np.maximum.accumulate(np.exp(self._factors) * _QUANTILES)
        quantile = _quantile(level)
        if quantile > _QUANTILES[-1]:
            return float(multiples[-1] * quantile / _QUANTILES[-1])
        return float(np.interp(quantile, [0.0, *_QUANTILES], [0.0, *multiples]))

    def _arrays(self) -> tuple[NDArray[np.float64], ...]:
        return self._scalars, self._inputs, self._moments, self._params, self._samples, self._factors

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes."""
        return {name: torch.from_numpy(array.copy()) for name, array in self._named().items()}

    def _named(self) -> dict[str, NDArray[np.float64]]:
        names = ("scalars", "inputs", "moments", "params", "samples", "factors")
        return {_PREFIX + name: array for name, array in zip(names, self._arrays(), strict=True)}

    def _bounds(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the greatest magnitude of each number of one of the arrays in a state."""
        bounds = np.full(array.shape, _LARGEST)
        if array is self._inputs:
            bounds[1] = _LARGEST_SQUARE
        elif array is self._scalars:
            bounds[[PREDICTION_VAR, ERROR]] = _LARGEST_SQUARE
        return bounds

    def restored(self, state: Mapping[str, Tensor], inputs: int) -> Intervals:
        """Return intervals for `inputs` features, from a state of `state_dict`.

        Raises
        ------
        StateError
            If the state does not fit, or is damaged.
        """
        fresh = Intervals(self.window, self._seed, inputs)
        for name, array in fresh._named().items():
            tensor = state.get(name)
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.float64:
                raise StateError(f"the state is damaged: {name} is missing, or is not of float64")
            if tensor.shape != array.shape:
                raise StateError(f"the state is damaged: {name} is of shape {tuple(tensor.shape)}")
            array[:] = tensor.numpy()
            if not (np.abs(array) <= fresh._bounds(array)).all():
                raise StateError(f"the state is damaged: {name} is not finite")
        counts = fresh._scalars[[COUNT, STEPS]]
        negative = (fresh._scalars[COUNT:] < 0.0).any() or (fresh._inputs[1] < 0.0).any()
        if negative or (fresh._moments[1] < 0.0).any() or (counts > _MOST).any() or (counts % 1.0).any():
            raise StateError("the state is damaged: the intervals have a negative variance or an odd count")
        return fresh


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of the engine in a state, and those of the intervals."""
    ours = {name: tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    return {name: tensor for name, tensor in tensors.items() if name not in ours}, ours


@jit
def _learn(
    x: _Reals,
    targets: _Reals,
    predictions: _Reals,
    weights: _Reals,
    seed: int,
    quantiles: _Reals,
    scratch: _Reals,
    scored: _Reals,
    scalars: _Reals,
    inputs: _Reals,
    moments: _Reals,
    params: _Reals,
    samples: _Reals,
    factors: _Reals,
) -> None:
    """Learn rows in order; see `Intervals.learn`. Allocates no memory."""
    for i in range(x.shape[0]):
        known = np.isfinite(predictions[i])
        error, weight = targets[i] - predictions[i], min(weights[i], 1.0)
        if known and scalars[STEPS] >= FIRST:
            spread = _spread_at(x[i], predictions[i], scratch, scalars, inputs, samples)
            radius = _widest(_SCORED, quantiles, factors) * spread
            scored[0, i], scored[1, i] = 2.0 * radius, 0.0 if abs(error) > radius else 1.0
            _correct(abs(error), spread, weight, quantiles, factors)
        _count(x[i], scalars, inputs)
        if known:
            _count_prediction(predictions[i], error, scalars)
            _standardize(x[i], predictions[i], scalars, inputs, scratch[0])
            _step(error, weight, seed, scratch, scalars, moments, params)
            scalars[STEPS] += 1.0
            step = int(scalars[STEPS])
            if step % _EVERY == 0:
                _keep(params, samples, (step // _EVERY - 1) % samples.shape[0])


@jit_inline
def _keep(params: _Reals, samples: _Reals, place: int) -> None:
    """Store the parameters in the place of the oldest sample."""
    for k in range(2):
        for j in range(params.shape[1]):
            samples[place, k, j] = params[k, j]


@jit_inline
def _spread_at(
    x: _Reals, prediction: float, scratch: _Reals, scalars: _Reals, inputs: _Reals, samples: _Reals
) -> float:
    """Return the root mean square of the error at x, expected over the sampled parameters."""
    row = scratch[0]
    _standardize(x, prediction, scalars, inputs, row)
    count = min(int(scalars[STEPS]) // _EVERY, samples.shape[0])
    total = 0.0
    for k in range(count):
        location, scale = 0.0, 0.0
        for j in range(row.shape[0]):
            location += samples[k, 0, j] * row[j]
            scale += samples[k, 1, j] * row[j]
        total += np.exp(2.0 * min(max(scale, -_LOG_CLIP), _LOG_CLIP)) + location * location
    return math.sqrt(scalars[ERROR] * total / count)


@jit_inline
def _widest(position: int, quantiles: _Reals, factors: _Reals) -> float:
    """Return the multiple of the spread at a level of the grid; see `Intervals._multiple`."""
    widest = 0.0
    for k in range(position + 1):
        widest = max(widest, np.exp(factors[k]) * quantiles[k])
    return widest


@jit_inline
def _correct(error: float, spread: float, weight: float, quantiles: _Reals, factors: _Reals) -> None:
    """Update the factor of each level, by whether its interval contained the target."""
    widest = 0.0
    for k in range(factors.shape[0]):
        widest = max(widest, np.exp(factors[k]) * quantiles[k])  # see `Intervals._multiple`
        missed = 1.0 if error > widest * spread else 0.0
        moved = factors[k] + _ETA * weight * (missed - (1.0 - LEVELS[k]))
        factors[k] = min(max(moved, -_LOG_CLIP), _LOG_CLIP)  # a bound also on the way back after few misses


@jit_inline
def _count(x: _Reals, scalars: _Reals, inputs: _Reals) -> None:
    """Count a sample into the moments of the features; a missing value counts as the mean."""
    scalars[COUNT] += 1.0
    share = 1.0 / scalars[COUNT]
    for j in range(x.shape[0]):
        change = 0.0 if np.isnan(x[j]) else x[j] - inputs[0, j]
        inputs[0, j] += share * change
        inputs[1, j] += share * ((1.0 - share) * change * change - inputs[1, j])


@jit_inline
def _count_prediction(prediction: float, error: float, scalars: _Reals) -> None:
    """Count a prediction and its error into their moments."""
    change, share = prediction - scalars[PREDICTION], 1.0 / (scalars[STEPS] + 1.0)
    scalars[PREDICTION] += share * change
    scalars[PREDICTION_VAR] += share * ((1.0 - share) * change * change - scalars[PREDICTION_VAR])
    scalars[ERROR_WEIGHT] = min(scalars[ERROR_WEIGHT] + 1.0, 1.0 / (1.0 - _RHO))
    scalars[ERROR] += (error * error - scalars[ERROR]) / scalars[ERROR_WEIGHT]


@jit_inline
def _standardize(x: _Reals, prediction: float, scalars: _Reals, inputs: _Reals, row: _Reals) -> None:
    """Write ``[1, φ]``: the prediction and the features, standardized and clipped."""
    row[0] = 1.0
    row[1] = _standard(prediction, scalars[PREDICTION], scalars[PREDICTION_VAR])
    for j in range(x.shape[0]):
        row[j + 2] = _standard(x[j], inputs[0, j], inputs[1, j])


@jit_inline
def _standard(value: float, mean: float, var: float) -> float:
    if np.isnan(value) or var <= 0.0:
        return 0.0
    return min(max((value - mean) / math.sqrt(var), -_CLIP), _CLIP)


@jit_inline
def _step(
    error: float, weight: float, seed: int, scratch: _Reals, scalars: _Reals, moments: _Reals, params: _Reals
) -> None:
    """Take one step of BNP-SGLD on the sample's negative log likelihood."""
    row, damped, noise = scratch[0], scratch[1], scratch[2]
    n = row.shape[0] - 1
    _follow(row, scalars, moments, damped)
    scale = np.sqrt(scalars[ERROR])
    unit = min(max(error / scale, -_ERROR_CLIP), _ERROR_CLIP) if scale > 0.0 else 0.0
    location, log_scale = 0.0, 0.0
    for j in range(n + 1):
        location += params[0, j] * row[j]
        log_scale += params[1, j] * row[j]
    deviation = np.exp(min(max(log_scale, -_LOG_CLIP), _LOG_CLIP))
    v = (unit - location) / deviation
    robust = (_NU + 1.0) / (_NU + v * v)  # less than 1 for an outlier
    rate = _RATE * weight / n  # h/q²
    for k in range(2):
        gradient = -robust * v * deviation if k == 0 else 0.5 * (1.0 - robust * v * v)
        size = np.sqrt(2.0 * rate / _SAMPLES) * (deviation if k == 0 else np.sqrt(0.5))
        for j in range(n + 1):
            noise[j] = _normal(seed, int(scalars[STEPS]), k * (n + 1) + j)
        down, shaped = 0.0, 0.0  # the centring's part for the bias: μᵀ of the parts of the weights
        for j in range(1, n + 1):
            part = gradient * (row[j] - moments[0, j - 1]) / damped[j]
            white = noise[j] / np.sqrt(damped[j])
            down += part * moments[0, j - 1]
            shaped += white * moments[0, j - 1]
            params[k, j] += size * white - rate * part
        params[k, 0] += size * (noise[0] - shaped) - rate * (gradient - down)


@jit_inline
def _follow(row: _Reals, scalars: _Reals, moments: _Reals, damped: _Reals) -> None:
    """Count φ into the moments of P, and write the damped variances σ̃²."""
    scalars[MOMENTS_WEIGHT] = min(scalars[MOMENTS_WEIGHT] + 1.0, 1.0 / (1.0 - _RHO) - 1.0)
    share = 1.0 / (scalars[MOMENTS_WEIGHT] + 1.0)  # the pseudo-sample is the first
    largest = 0.0
    for j in range(moments.shape[1]):
        change = row[j + 1] - moments[0, j]
        moments[0, j] += share * change
        moments[1, j] += share * ((1.0 - share) * change * change - moments[1, j])
        largest = max(largest, moments[1, j])
    for j in range(moments.shape[1]):
        damped[j + 1] = moments[1, j] + _EPS_REL * largest + _EPS_ABS


@jit_inline
def _normal(seed: int, step: int, place: int) -> float:
    """Return a normal number determined by the arguments: Box and Muller on a counter."""
    u, v = _uniform(seed, step, 2 * place), _uniform(seed, step, 2 * place + 1)
    return math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v)


@jit_inline
def _uniform(seed: int, step: int, place: int) -> float:
    """Return a number in [0, 1) by SplitMix64 on a counter, independent of `mixture.draw`."""
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03)
    x += np.uint64(step) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(place) * np.uint64(0x94D049BB133111EB)
    for _ in range(2):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return float(x >> np.uint64(11)) / 9007199254740992.0
