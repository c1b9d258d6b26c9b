"""The compiled part of `intervals`: the model of a regression's errors, and its step.

Nothing here allocates: arrays come in from `Intervals`, and ``scratch`` has room for three rows of φ.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .jit import jit

_Reals = NDArray[np.float64]

#: Levels at which intervals are corrected by what comes true.
LEVELS = np.array([0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
#: Steps before the first interval.
FIRST = 20
#: h, the rate, and N, how many of the latest samples the posterior is of.
_RATE, _SAMPLES = 0.02, 500.0
#: One step in so many is kept as a sample of the parameters.
_EVERY = 4
#: η, how fast the factors follow.
_ETA = 0.05
#: Retention weight of the moments behind P and of the mean squared error, and the damping of the variances.
_RHO, _EPS_REL, _EPS_ABS = 0.99, 1e-2, 1e-4
#: Degrees of freedom ν of the errors.
_NU = 4.0
#: Standardized inputs, errors, and logarithms of scales and of factors are clipped to ± these.
_CLIP, _ERROR_CLIP, _LOG_CLIP = 5.0, 10.0, 4.0

#: Places in the scalars: mean of the predictions; number of samples; variance of the predictions; mean
#: squared error, and how many steps it averages over; the same of the moments behind P; number of steps.
PREDICTION, COUNT, PREDICTION_VAR, ERROR, ERROR_WEIGHT, MOMENTS_WEIGHT, STEPS = range(7)
SCALARS = 7


@jit
def learn(
    x: _Reals,
    targets: _Reals,
    predictions: _Reals,
    weights: _Reals,
    seed: int,
    quantiles: _Reals,
    scratch: _Reals,
    scalars: _Reals,
    inputs: _Reals,
    moments: _Reals,
    params: _Reals,
    samples: _Reals,
    factors: _Reals,
) -> None:
    """Learn rows in order; see `Intervals.learn`."""
    for i in range(x.shape[0]):
        known = np.isfinite(predictions[i])
        error, weight = targets[i] - predictions[i], min(weights[i], 1.0)
        if known and scalars[STEPS] >= FIRST:
            spread = spread_at(x[i], predictions[i], scratch, scalars, inputs, samples)
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


@jit
def _keep(params: _Reals, samples: _Reals, place: int) -> None:
    """Put the parameters in the place of the oldest sample."""
    for k in range(2):
        for j in range(params.shape[1]):
            samples[place, k, j] = params[k, j]


@jit
def spread_at(
    x: _Reals, prediction: float, scratch: _Reals, scalars: _Reals, inputs: _Reals, samples: _Reals
) -> float:
    """Return the root mean square of the error that the sampled parameters expect at x."""
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


@jit
def _correct(error: float, spread: float, weight: float, quantiles: _Reals, factors: _Reals) -> None:
    """Move each level's factor by whether its interval held the target."""
    widest = 0.0
    for k in range(factors.shape[0]):
        widest = max(widest, np.exp(factors[k]) * quantiles[k])  # see `Intervals._multiple`
        missed = 1.0 if error > widest * spread else 0.0
        moved = factors[k] + _ETA * weight * (missed - (1.0 - LEVELS[k]))
        factors[k] = min(
            max(moved, -_LOG_CLIP), _LOG_CLIP
        )  # where nothing misses for long, the way back ends


@jit
def _count(x: _Reals, scalars: _Reals, inputs: _Reals) -> None:
    """Count a sample into the moments of the features; what is missing counts as the mean."""
    scalars[COUNT] += 1.0
    share = 1.0 / scalars[COUNT]
    for j in range(x.shape[0]):
        change = 0.0 if np.isnan(x[j]) else x[j] - inputs[0, j]
        inputs[0, j] += share * change
        inputs[1, j] += share * ((1.0 - share) * change * change - inputs[1, j])


@jit
def _count_prediction(prediction: float, error: float, scalars: _Reals) -> None:
    """Count a prediction and its error into their moments."""
    change, share = prediction - scalars[PREDICTION], 1.0 / (scalars[STEPS] + 1.0)
    scalars[PREDICTION] += share * change
    scalars[PREDICTION_VAR] += share * ((1.0 - share) * change * change - scalars[PREDICTION_VAR])
    scalars[ERROR_WEIGHT] = min(scalars[ERROR_WEIGHT] + 1.0, 1.0 / (1.0 - _RHO))
    scalars[ERROR] += (error * error - scalars[ERROR]) / scalars[ERROR_WEIGHT]


@jit
def _standardize(x: _Reals, prediction: float, scalars: _Reals, inputs: _Reals, row: _Reals) -> None:
    """Write ``[1, φ]``: the prediction and the features, standardized and clipped."""
    row[0] = 1.0
    row[1] = _standard(prediction, scalars[PREDICTION], scalars[PREDICTION_VAR])
    for j in range(x.shape[0]):
        row[j + 2] = _standard(x[j], inputs[0, j], inputs[1, j])


@jit
def _standard(value: float, mean: float, var: float) -> float:
    if np.isnan(value) or var <= 0.0:
        return 0.0
    return min(max((value - mean) / math.sqrt(var), -_CLIP), _CLIP)


@jit
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
        down, shaped = 0.0, 0.0  # what the bias gets from the centring: μᵀ of the weights' parts
        for j in range(1, n + 1):
            part = gradient * (row[j] - moments[0, j - 1]) / damped[j]
            white = noise[j] / np.sqrt(damped[j])
            down += part * moments[0, j - 1]
            shaped += white * moments[0, j - 1]
            params[k, j] += size * white - rate * part
        params[k, 0] += size * (noise[0] - shaped) - rate * (gradient - down)


@jit
def _follow(row: _Reals, scalars: _Reals, moments: _Reals, damped: _Reals) -> None:
    """Count φ into the moments behind P, and write σ̃² of each."""
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


@jit
def _normal(seed: int, step: int, place: int) -> float:
    """Return a normal number that depends on the arguments alone: Box and Muller on a counter."""
    u, v = _uniform(seed, step, 2 * place), _uniform(seed, step, 2 * place + 1)
    return math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v)


@jit
def _uniform(seed: int, step: int, place: int) -> float:
    """Return a number in [0, 1), by SplitMix64 on a counter; others than `mixture.draw` has."""
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03)
    x += np.uint64(step) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(place) * np.uint64(0x94D049BB133111EB)
    for _ in range(2):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return float(x >> np.uint64(11)) / 9007199254740992.0
