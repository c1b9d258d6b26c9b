"""No learning rate to tune: copies of the network at several rates, weighted by how well they predict.

After each label, and from the predictions made before learning it, with ``ℓ_k`` the loss of copy k::

    w_k ← w_k · exp(−η ℓ_k),   normalize,   w ← (1 − s) w + s/M

A regression's loss is the absolute error over the mixture's own mean one: squared, a few outliers would make
the scale so large that the weights hardly move in between.

Some copies are for what stays the same. They *replay*: after each sample they take further steps on
remembered ones, drawn uniformly with replacement. And they *average*: they learn as the others do, but
predict with the running mean of their weights, which the noise of single steps does not move. Both lift
stationary streams and cost drifting ones; the mixture's weights take whichever is right. With q counting
every eighth sample, and γ = 8::

    w̄ ← w̄ + (γ + 1)/(q + γ + 1) · (w − w̄)

so the mean reaches over the last ninth of the stream, however long it is by then.

References
----------
M. Herbster, M. Warmuth, *Tracking the best expert*, Machine Learning 32, 1998: weights with a fixed share s.
O. Shamir, T. Zhang, *Stochastic gradient descent for non-smooth optimization*, ICML 2013: the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .jit import jit

#: Learning rates of the copies with ``lr="auto"``.
RATES = (0.1, 0.3, 0.6)
#: Rate where one copy alone is run, and of the copy that averages without replay.
SINGLE_RATE = 0.3
#: η, how fast the weights follow the losses.
ETA = 0.2
#: s, the share of the weights that is dealt out evenly.
SHARE = 0.01
#: Losses are clipped to this many nats: the loss of a probability of 1e-4.
MAX_LOSS = float(-np.log(1e-4))
#: Retention weight of the running mean error by which a regression's losses are scaled, and its floor.
ERROR_RETENTION, ERROR_FLOOR = 0.99, 1e-2
#: γ, which says over what part of a stream weights are averaged.
AVERAGE_DECAY = 8.0
#: Weights are counted in every so many samples: each one would cost a sweep more, and gain nothing.
AVERAGE_EVERY = 8


@jit
def mix(weights: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
    """Update the weights in place; a loss of infinity marks a copy that diverged, whose weight goes to 0."""
    total, best = 0.0, np.inf
    for k in range(losses.shape[0]):
        best = min(best, losses[k])  # the same factor for all: it cancels, and keeps the sum away from 0
    for k in range(weights.shape[0]):
        weights[k] *= np.exp(-ETA * (losses[k] - best)) if losses[k] < np.inf else 0.0
        total += weights[k]
    for k in range(weights.shape[0]):
        share = 1.0 / weights.shape[0]
        weights[k] = (1.0 - SHARE) * (weights[k] / total if total > 0.0 else share) + SHARE * share


@jit
def average_share(step: int) -> float:
    """Return the share of a copy's latest weights in their running mean; 0 for a step that is not counted.

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
    """Return a number in [0, count) that depends on the arguments alone: SplitMix64, counter-based.

    Parameters
    ----------
    seed, step, turn : int
        Of the learner; number of samples learned; number of the replayed step after this sample.
    count : int
        How many samples are remembered, ≥ 1.
    """
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(step) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(turn) * np.uint64(0x94D049BB133111EB)
    for _ in range(2):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return int(x % np.uint64(count))
