"""Generators of streams whose samples depend on each other in time: cameras, sensors, prices, counts.

Each function returns rows X of shape (n, d) and targets y of shape (n,), which the seed determines. In
independent draws, as most generators make them, a learner cannot use the recent past.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Classes: TypeAlias = NDArray[np.int64]

_DAY, _WEEK = 48, 336  # steps of half an hour


def order_in_runs(X: Array, y: NDArray[Any], length: float, seed: int) -> Classes:
    """Return an order in which a class comes in runs of similar rows, as for a camera that follows objects.

    Parameters
    ----------
    X, y : array
        Rows and classes of a set without an order.
    length : float
        Mean length of a run, less 1; lengths are geometric.
    seed : int
        Seed of the order.
    """
    rng = np.random.default_rng(seed)
    left = {}
    for label in np.unique(y):
        places = np.flatnonzero(y == label)
        Z = (X[places] - X[places].mean(0)) / (X[places].std(0) + 1e-9)
        component = np.linalg.svd(Z, full_matrices=False)[0][:, 0]  # neighbours in it look alike
        left[label] = places[np.argsort(component)].tolist()
    order: list[int] = []
    while left:
        label = rng.choice(list(left))
        run = 1 + rng.geometric(1 / length)
        order += left[label][:run]
        left[label] = left[label][run:]
        if not left[label]:
            del left[label]
    return np.array(order)


def order_with_persistence(y: NDArray[Any], stay: float, seed: int) -> Classes:
    """Return an order in which the class stays with a probability, up to the last row of some class."""
    rng = np.random.default_rng(seed)
    left = {label: rng.permutation(np.flatnonzero(y == label)).tolist() for label in np.unique(y)}
    order: list[int] = []
    label = rng.choice(list(left))
    while all(left.values()):
        if rng.random() > stay:
            label = rng.choice(list(left))
        order.append(left[label].pop())
    return np.array(order)


def filmed(seed: int, classes: int = 40, d: int = 21, n: int = 4000, run: int = 10) -> tuple[Array, Classes]:
    """Return objects filmed one after another, each for `run` samples: a histogram of d colours per sample.

    The features walk around those of the object, and the light changes between objects.
    """
    rng = np.random.default_rng(seed)
    prototypes = rng.dirichlet(np.full(d, 0.5), classes)
    X, y, light = np.zeros((n, d)), np.zeros(n, dtype=np.int64), np.zeros(d)
    for begin in range(0, n, run):
        label = int(rng.integers(classes))
        light = 0.9 * light + 0.1 * rng.normal(0, 1, d)
        view = rng.normal(0, 0.5, d)
        for t in range(begin, min(begin + run, n)):
            view = 0.9 * view + 0.3 * rng.normal(0, 1, d)
            X[t], y[t] = prototypes[label] * np.exp(0.5 * view + 2 * light), label
    return X / X.sum(axis=1, keepdims=True), y


def price(seed: int, n: int = 6000) -> tuple[Array, Classes]:
    """Return whether a price is above its mean of the last day, with daily and weekly seasons.

    The features are the time of day, the day, a noisy earlier price, a noisy price, and noise.
    """
    rng = np.random.default_rng(seed)
    steps = np.arange(n + 60)
    deviation, prices = 0.0, np.zeros(n + 60)
    for t in range(n + 60):
        deviation = 0.97 * deviation + rng.normal(0, 0.3)
        prices[t] = deviation
    prices += 0.8 * np.sin(2 * np.pi * steps / _DAY) + 0.3 * np.sin(2 * np.pi * steps / _WEEK)
    X, y = np.zeros((n, 5)), np.zeros(n, dtype=np.int64)
    for i, t in enumerate(range(50, n + 50)):
        earlier, now = prices[t - 2] + rng.normal(0, 0.5), 0.7 * prices[t] + rng.normal(0, 0.8)
        X[i] = (t % _DAY) / _DAY, (t // _DAY) % 7, earlier, now, rng.normal()
        y[i] = prices[t] > prices[t - _DAY : t].mean()
    return X, y


def walk(
    seed: int, n: int = 5000, d: int = 8, classes: int = 3, *, units: bool = False
) -> tuple[Array, Classes]:
    """Return features that walk at random, labelled by a random network.

    With `units` the features change their units halfway.
    """
    rng = np.random.default_rng(seed)
    X, x = np.zeros((n, d)), rng.normal(size=d)
    for t in range(n):
        x = 0.98 * x + 0.2 * rng.normal(size=d)
        X[t] = x
    hidden = np.tanh(X @ rng.normal(size=(d, 24)))
    y = (hidden @ rng.normal(size=(24, classes))).argmax(axis=1)
    if units:
        X[n // 2 :] *= np.resize([10, 1, 0.1, 1, 1, 1, 5, 1], d)
    return X, y


def sensor(
    seed: int, n: int = 6000, d: int = 6, hidden: float = 0.3, *, units: bool = False
) -> tuple[Array, Array]:
    """Return a target that follows slow states: d of them measured, on different scales, and a hidden one.

    Parameters
    ----------
    seed : int
        Seed.
    n, d : int
        Numbers of samples and of features.
    hidden : float
        Weight of the hidden state.
    units : bool
        Whether two features and the target change their units on the way.
    """
    rng = np.random.default_rng(seed)
    line, bend = rng.normal(size=d), rng.normal(size=d)
    periods, scales = 24 * (1 + np.arange(d)), np.exp(np.arange(d) - 2.0)
    state, unseen, X, y = np.zeros(d), 0.0, np.zeros((n, d)), np.zeros(n)
    for t in range(n):
        state = 0.97 * state + 0.25 * rng.normal(size=d) + 0.1 * np.sin(2 * np.pi * t / periods)
        unseen = 0.995 * unseen + 0.1 * rng.normal()
        X[t] = state * scales + rng.normal(0, 0.05, d)
        signal = line @ state + 0.6 * np.tanh(bend @ state) + hidden * 3 * unseen
        y[t] = 20 + 5 * (signal + 0.2 * rng.normal())
    if units:
        X[n // 2 :, 0] = X[n // 2 :, 0] * 1.8 + 32
        X[2 * n // 3 :, 1] *= 1000
        y[3 * n // 4 :] *= 2.2
    return X, y


def counts(seed: int, n: int = 6000) -> tuple[Array, Array]:
    """Return counts by hour, day and weather, with growth.

    They have a peak in the evening, one in the morning of workdays and one after noon at weekends.

    The features are the hour, the day, the temperature, rain (0 or 1), and noise.
    """
    rng = np.random.default_rng(seed)
    deviation, X, y = 0.0, np.zeros((n, 5)), np.zeros(n)
    for t in range(n):
        deviation = 0.9 * deviation + rng.normal(0, 0.15)
        hour, day = t % 24, (t // 24) % 7
        season, sun = np.sin(2 * np.pi * t / (24 * 365)), np.sin(2 * np.pi * hour / 24)
        temperature = 10 + 10 * season + 4 * sun + rng.normal()
        rain = rng.random() < 0.1
        busy = 1.9 * np.exp(-(((hour - 17.5) / 2.5) ** 2))
        busy += 1.6 * np.exp(-(((hour - 8) / 2) ** 2)) if day < 5 else 1.2 * np.exp(-(((hour - 14) / 4) ** 2))
        growth = 0.6 * t / n
        rate = 2.5 + busy + 0.05 * temperature - 0.7 * rain + growth + deviation
        X[t] = hour, day, temperature, rain, rng.normal()
        y[t] = rng.poisson(np.exp(rate))
    return X, y
