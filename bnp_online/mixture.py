"""Mixture of members with several learning rates, weighted by past losses: no rate needs tuning.

After each label, where ``ℓ_k`` is the loss of the prediction of member k before the step::

    w_k ← w_k · exp(−η ℓ_k),   normalize,   w ← (1 − s) w + s/M

The loss of a regression is the absolute error over the running mean error of the mixture. With a squared
error, a few outliers would make the scale very large. Other samples would then hardly change the weights.

Some members suit stationary streams. They *replay*: after each sample they take further steps on samples of
the replay buffer, drawn uniformly with replacement. And they *average*: they predict with the running mean of
their weights, without the noise of single steps. Both improve the predictions on stationary streams and harm
them on drifting ones. The weights of the mixture select the better members. With γ = 8, and q the number of
updates, one every eighth sample::

    w̄ ← w̄ + (γ + 1)/(q + γ + 1) · (w − w̄)

so the mean covers about the last ninth of the stream.

References
----------
M. Herbster, M. Warmuth, *Tracking the best expert*, Machine Learning 32, 1998: weights with a fixed share s.
O. Shamir, T. Zhang, *Stochastic gradient descent for non-smooth optimization*, ICML 2013: the mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .jit import jit

#: Learning rates of the members with ``lr="auto"``, of the first generation.
RATES = (0.1, 0.3, 0.6)
#: Learning rates of the second generation: networks without and with replay, and linear models.
PLAIN_RATES, REPLAY_RATES, LINEAR_RATES = (0.1, 0.3, 1.0, 1.5), (0.3, 0.6), (0.1, 1.0)
#: Rate of a single member, and of the member that averages without replay.
SINGLE_RATE = 0.3
#: Rate η of the weights. In the second generation they are the mean of the weights of each of two rates.
ETA = 0.2
ETAS = (ETA, 1.0)
#: Share s of the weights that is distributed evenly.
SHARE = 0.01
#: η and s of the shares of hedge and stack.
SHARES_ETA, SHARES_SHARE = 0.5, 0.003
#: Bound of the losses, in nats: the loss of a probability of 1e-4.
MAX_LOSS = float(-np.log(1e-4))
#: Retention weight of a regression's running mean error, and its least value as a scale of losses.
ERROR_RETENTION, ERROR_FLOOR = 0.99, 1e-2
#: γ: the weights are averaged over the last ``1/(γ + 1)`` of the stream.
AVERAGE_DECAY = 8.0
#: Samples between two updates of the running means: more updates cost a sweep each, and gain nothing.
AVERAGE_EVERY = 8


# Nearest neighbours (`NEIGHBOURS`)
#: Metrics (0: standardized inputs, 1: the network's own); windows of the memory in samples from the newest,
#: ascending for each metric; numbers of neighbours.
NEIGHBOURS = ((0, 500, 5), (1, 500, 5), (1, 5000, 1), (1, 5000, 10))
#: Greatest number of values compared for a prediction: windows shrink beyond it, and below the least window
#: there are no neighbours.
NEIGHBOUR_VALUES, LEAST_WINDOW = 50_000, 50
#: Least sum of votes of a regression: the reciprocal of a lower one may be infinite.
LEAST_VOTES = 2.0**-1022
#: Samples between two renewals of the network's own metric, and its exponent in the squared distance.
METRIC_EVERY, METRIC_POWER = 50, 3.0

# Bins
#: Rate of the model of bins, and what is added to its sums of squares.
BIN_RATE, BIN_DAMPING = 0.8, 0.1
#: Bounds between the intervals of a standardized value: the deciles of the normal distribution. The fifth is
#: not quite 0, so that rounding decides nothing about a value at the mean.
BIN_EDGES = (-1.2816, -0.8416, -0.5244, -0.2533, 0.001, 0.2533, 0.5244, 0.8416, 1.2816)
#: Number of integers, from 0, with a bin of their own; number of features with bins, the first ones.
BIN_INTEGERS, BINNED_INPUTS = 32, 256

# Stack
#: Retention of the curvature; bound of the trace of its inverse by coefficient, which is also its start.
STACK_RETENTION, STACK_TRACE = 0.999, 1.0 / 30.0
#: Added to probabilities before their logarithm; least scale of errors; bound of an error in scales.
STACK_SMOOTHING, STACK_SCALE_FLOOR, STACK_ERROR_CLIP = 1e-3, 1e-3, 5.0
#: Samples before a regression's first step.
STACK_FROM = 20
#: Number of classes above which the stack leaves out improbable ones, and their greatest probability.
STACK_MOST_CLASSES, STACK_LEAST = 128, 1e-4

# Bounds of values (`engines.numba_glitches`)
FIRST_VALUES = 20
BOUND_DEVIATIONS, BOUND_GROWTH, FIRST_DEVIATIONS = 10.0, 2.0, 15.0


@jit
def neighbour_window(inputs: int, window: int) -> int:
    """Return the number of samples in a window for a number of inputs."""
    return max(min(window, NEIGHBOUR_VALUES // max(inputs, 1)), min(window, LEAST_WINDOW))


def _mixing(eta: float, least: float) -> Callable[[NDArray[np.float64], NDArray[np.float64]], None]:
    """Return the update of weights with a rate η and an evenly distributed share.

    Both are constants of the compiled code: as arguments, they would change the last bits of the first
    generation.
    """

    @jit
    def mix(weights: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
        """Update the weights in place; a loss of infinity marks a member that diverged, with weight 0."""
        total, best = 0.0, np.inf
        for k in range(losses.shape[0]):
            best = min(best, losses[k])  # a common factor: it cancels, and keeps the sum away from 0
        for k in range(weights.shape[0]):
            weights[k] *= np.exp(-eta * (losses[k] - best)) if losses[k] < np.inf else 0.0
            total += weights[k]
        for k in range(weights.shape[0]):
            share = 1.0 / weights.shape[0]
            weights[k] = (1.0 - least) * (weights[k] / total if total > 0.0 else share) + least * share

    return mix


#: Updates of the weights of the experts at each rate, and of the shares of hedge and stack.
mix, mix_fast, mix_shares = _mixing(ETA, SHARE), _mixing(ETAS[1], SHARE), _mixing(SHARES_ETA, SHARES_SHARE)


@jit
def average_share(step: int) -> float:
    """Return the share of the latest weights in their running mean; 0 for a step without an update.

    Parameters
    ----------
    step : int
        Number of samples learned, ≥ 1.
    """
    if step % AVERAGE_EVERY != 0:
        return 0.0
    return (AVERAGE_DECAY + 1.0) / (step / AVERAGE_EVERY + AVERAGE_DECAY + 1.0)


@jit
def draw(seed: int, step: int, turn: int, count: int) -> int:
    """Return a number in [0, count) determined by the arguments: SplitMix64 on a counter.

    Parameters
    ----------
    seed, step, turn : int
        Seed of the learner; number of samples learned; index of the replayed step after this sample.
    count : int
        Number of samples in the replay buffer, ≥ 1.
    """
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(step) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(turn) * np.uint64(0x94D049BB133111EB)
    for _ in range(2):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return int(x % np.uint64(count))
