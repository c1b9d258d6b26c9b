"""Predictive intervals: a small Bayesian model of a regression's errors, sampled by BNP-SGLD as they come.

Beside the network a linear layer ``[m, s] = W φ + b`` describes the errors of its predictions, in units of
their running root mean square, by a Student t distribution with ν = 4: location m, scale exp(s). Its inputs φ
are the prediction and the features, standardized on line, so that the scale adapts to x. The layer takes one
step of BNP-SGLD a sample (see `langevin`), for the latest N = 500 samples or so::

    ŵ ← ŵ − h (P Pᵀ/q²) g + √(2 h/N) (P/q) ξ          q² = n, the paper's scale at one sample

with g the gradient of the sample's negative log likelihood, divided by the Fisher information of m and of s.
The *spread* at x is the root mean square of the error that a window of samples of ``[b, W]`` expects there:
the mean of ``exp(2 s) + m²`` over them holds both the noise and what is not known of the parameters.

An interval at level L is ``ŷ ± c_L Φ⁻¹((1 + L)/2) · spread``. The factors c, 1 where errors are Gaussian and
the model is right, follow what comes true, at a grid of levels between which they are interpolated::

    log c_L ← log c_L + η (miss − (1 − L))

Summed up, the share of misses is ``1 − L + (log c_L(T) − log c_L(0)) / (η T)``, whatever the stream does:
what Gibbs and Candès do to the level is done to the factor here.

The moments behind P follow the stream here, with ρ = 0.99: a stream that drifts has no posterior to be exact
about, and the factors take up what this biases.

References
----------
I. Gibbs, E. Candès, *Adaptive conformal inference under distribution shift*, NeurIPS 2021.
A. Angelopoulos, E. Candès, R. Tibshirani, *Conformal PID control for time series prediction*, NeurIPS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .encoding import Vector
from .errors import StateError
from .residuals import COUNT, FIRST, LEVELS, SCALARS, STEPS, learn, spread_at

_PREFIX = "intervals."
#: Greatest magnitude of anything in a state: its square is finite.
_LARGEST = 1e150
_MOST = 2**53


def _quantile(level: float) -> float:
    """Return how many standard deviations to each side hold such a share of a Gaussian."""
    return NormalDist().inv_cdf(min((1.0 + level) / 2.0, math.nextafter(1.0, 0.0)))


_QUANTILES = np.array([_quantile(level) for level in LEVELS])


class Intervals:
    """The state behind the intervals of one regression.

    Parameters
    ----------
    window : int
        How many samples of the parameters are kept, ≥ 1; every fourth step is one.
    seed : int
        Of the noise.
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
        # Compiles, or loads from the cache, what the first sample would have to wait for.
        nothing = np.zeros(0)
        self.learn(np.zeros((0, inputs)), nothing, nothing, nothing)

    def grow(self, count: int) -> None:
        """Append features, which were 0 so far."""
        pad = ((0, 0), (0, count))
        self._inputs = np.pad(self._inputs, pad)
        self._moments = np.pad(self._moments, pad)
        self._moments[1, self._moments.shape[1] - count :] = 1.0
        self._params = np.pad(self._params, pad)
        self._samples = np.pad(self._samples, ((0, 0), *pad))

    def learn(self, x: Vector, targets: Vector, predictions: Vector, weights: Vector) -> None:
        """Learn from the errors of predictions, in order.

        Parameters
        ----------
        x : array of shape (N, inputs)
            Raw features; NaN stands for a missing value.
        targets, predictions, weights : arrays of shape (N,)
            Predictions are those made before learning; NaN where there was none.
        """
        scratch = np.empty((3, self._params.shape[1]))
        learn(x, targets, predictions, weights, self._seed, _QUANTILES, scratch, *self._arrays())

    def radius(self, x: Vector, prediction: float, level: float) -> float | None:
        """Return half the width of the interval around a prediction; None before enough samples.

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
        spread = spread_at(x, prediction, scratch, self._scalars, self._inputs, self._samples)
        return spread * self._multiple(level)

    def _multiple(self, level: float) -> float:
        """Return by what the spread is multiplied, which never falls with the level."""
        # The factors of two levels may cross: the higher one has the interval of the lower, then.
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

    def restored(self, state: Mapping[str, Tensor], inputs: int) -> Intervals:
        """Return such intervals, of so many features, in the state that `state_dict` returned.

        Raises
        ------
        StateError
            If it does not fit, or cannot be one.
        """
        fresh = Intervals(self.window, self._seed, inputs)
        for name, array in fresh._named().items():
            tensor = state.get(name)
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.float64:
                raise StateError(f"the state is damaged: {name} is missing, or is not of float64")
            if tensor.shape != array.shape:
                raise StateError(f"the state is damaged: {name} is of shape {tuple(tensor.shape)}")
            array[:] = tensor.numpy()
            if not (np.abs(array) <= _LARGEST).all():
                raise StateError(f"the state is damaged: {name} is not finite")
        counts = fresh._scalars[[COUNT, STEPS]]
        negative = (fresh._scalars[COUNT:] < 0.0).any() or (fresh._inputs[1] < 0.0).any()
        if negative or (fresh._moments[1] < 0.0).any() or (counts > _MOST).any() or (counts % 1.0).any():
            raise StateError("the state is damaged: the intervals have a negative variance or an odd count")
        return fresh


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a state that are an engine's, and those that are of intervals."""
    ours = {name: tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    return {name: tensor for name, tensor in tensors.items() if name not in ours}, ours
