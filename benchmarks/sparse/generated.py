"""Generated streams of strings and words, whose best possible loss is known.

Each is determined by its seed. The targets are drawn from probabilities, or around means, that a generator
computes from the features: no model can expect a smaller loss than these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnp_online.engines.base import Task

Array: TypeAlias = NDArray[np.float64]
Values: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Draw:
    """Samples by column.

    Attributes
    ----------
    fields : dict of str to array of shape (n,)
        Number of the value of each field, by sample.
    targets : list
        Targets.
    losses : array of shape (n,)
        Loss of the best possible prediction: −log p(y), or the squared error.
    numbers : dict of str to array of shape (n,)
        Numeric features.
    texts : dict of str to list of str
        Texts.
    """

    fields: dict[str, Values]
    targets: Sequence[Any]
    losses: Array
    numbers: dict[str, Array] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def features(self, i: int) -> dict[str, Any]:
        """Return the features of a sample, with new strings at each call."""
        x: dict[str, Any] = {name: str(values[i]) for name, values in self.fields.items()}
        x |= {name: float(values[i]) for name, values in self.numbers.items()}
        return x | {name: texts[i] for name, texts in self.texts.items()}


def _zipf(rng: np.random.Generator, values: int, power: float, n: int) -> Values:
    """Return draws of 0 … values − 1, whose probabilities fall like a power of the rank."""
    weights = np.cumsum(1.0 / np.arange(1, values + 1) ** power)
    return np.searchsorted(weights / weights[-1], rng.random(n)).astype(np.int64)


def _labels(rng: np.random.Generator, logits: Array) -> tuple[list[bool], Array]:
    """Return labels drawn by the logits of True, and −log p of each."""
    p = 1.0 / (1.0 + np.exp(-logits))
    y = rng.random(len(p)) < p
    return y.tolist(), -np.log(np.where(y, p, 1.0 - p))


def pairs(n: int = 60_000, seed: int = 0) -> Draw:
    """Return four fields, one of them with a million possible values; labels depend on pairs of values."""
    rng = np.random.default_rng(seed)
    users, items = _zipf(rng, 1_000_000, 0.9, n), _zipf(rng, 2000, 1.0, n)
    sites, hours = _zipf(rng, 30, 0.7, n), _zipf(rng, 30, 0.7, n)
    of_user, of_both = rng.normal(0, 1, 1_000_000), rng.normal(0, 1.5, (2000, 30))
    of_place, of_item = rng.normal(0, 1, (30, 30)), rng.normal(0, 0.5, 2000)
    logits = -0.5 + of_user[users] + of_item[items] + of_both[items, sites] * (items < 100)
    y, losses = _labels(rng, logits + of_place[sites, hours])
    return Draw({"u": users, "i": items, "c": sites, "d": hours}, y, losses)


def big(n: int = 200_000, seed: int = 5) -> Draw:
    """Return nine fields, which have a million different values in 200,000 samples."""
    rng = np.random.default_rng(seed)
    users = _zipf(rng, 10_000_000, 0.7, n)
    noise = {name: _zipf(rng, 3_000_000, 0.6, n) for name in "vwqyz"}
    items, sites, hours = _zipf(rng, 5000, 1.0, n), _zipf(rng, 30, 0.7, n), _zipf(rng, 30, 0.7, n)
    of_user, of_both = rng.normal(0, 1, 10_000_000), rng.normal(0, 1.5, (100, 30))
    of_place, of_item = rng.normal(0, 1, (30, 30)), rng.normal(0, 0.7, 5000)
    logits = -0.5 + of_user[users] + of_item[items]
    logits += np.where(items < 100, of_both[np.minimum(items, 99), sites], 0.0) + of_place[sites, hours]
    y, losses = _labels(rng, logits)
    return Draw({"u": users, **noise, "i": items, "c": sites, "d": hours}, y, losses)


def rotating(n: int = 60_000, seed: int = 1, places: int = 3000, life: int = 12_000) -> Draw:
    """Return advertisements of which each is shown for `life` samples, and then replaced by a new one.

    Parameters
    ----------
    n, seed : int
        Number of samples; seed.
    places : int
        Number of advertisements at a time.
    life : int
        Number of samples until an advertisement is replaced.
    """
    rng = np.random.default_rng(seed)
    place, site, hour = _zipf(rng, places, 0.8, n), _zipf(rng, 200, 0.9, n), _zipf(rng, 24, 0.2, n)
    generations = n // life + 2
    generation = (np.arange(n) + rng.integers(life, size=places)[place]) // life
    advertisement = place * generations + generation
    of_advertisement, of_site = rng.normal(0, 1.2, places * generations), rng.normal(0, 0.7, 200)
    of_both = rng.normal(0, 0.7, (200, 24))
    logits = -1.0 + of_advertisement[advertisement] + of_site[site] + of_both[site, hour]
    y, losses = _labels(rng, logits)
    return Draw({"ad": advertisement, "site": site, "hour": hour}, y, losses)


def topics(n: int = 20_000, seed: int = 2, classes: int = 10, vocabulary: int = 30_000) -> Draw:
    """Return texts of some words, drawn by topic; the class is the topic.

    Parameters
    ----------
    n, seed : int
        Number of samples; seed.
    classes, vocabulary : int
        Numbers of topics and of possible words.
    """
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(0, 0.8, (classes, vocabulary))) / np.arange(1, vocabulary + 1)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    sums, logs = probabilities.cumsum(axis=1), np.log(probabilities)
    y = _zipf(rng, classes, 0.5, n)
    prior = np.log(np.bincount(y, minlength=classes) / n)
    texts, losses = [], np.zeros(n)
    for i, length in enumerate(2 + rng.poisson(6, n)):
        draws = np.searchsorted(sums[y[i]], rng.random(length)).clip(max=vocabulary - 1)
        texts.append(" ".join(f"w{word}" for word in draws))
        scores = prior + logs[:, draws].sum(axis=1)
        losses[i] = np.logaddexp.reduce(scores) - scores[y[i]]
    return Draw({}, [f"topic {label}" for label in y], losses, texts={"text": texts})


def ratings(n: int = 60_000, seed: int = 3) -> Draw:
    """Return ratings by user and item, with a genre, a day and a price; the noise is normal."""
    rng = np.random.default_rng(seed)
    users, items, days = _zipf(rng, 50_000, 0.7, n), _zipf(rng, 5000, 0.9, n), _zipf(rng, 7, 0.0, n)
    genres, ages = rng.integers(40, size=5000)[items], rng.integers(6, size=50_000)[users]
    prices = np.exp(rng.normal(2.0, 1.5, 5000))[items]
    of_user, of_item = rng.normal(0, 0.5, 50_000), rng.normal(0, 0.6, 5000)
    of_both = rng.normal(0, 0.5, (40, 6))
    mean = 3.5 + of_user[users] + of_item[items] + of_both[genres, ages] - 0.15 * (np.log(prices) - 2.0)
    noise = rng.normal(0, 0.6, n)
    fields = {"user": users, "item": items, "genre": genres, "age": ages, "day": days}
    return Draw(fields, (mean + noise).tolist(), noise**2, {"price": prices})


@dataclass(frozen=True)
class Generated:
    """Generated stream.

    Attributes
    ----------
    task : {"classification", "regression"}
        Prediction task.
    draw : callable
        Returns the samples.
    """

    task: Task
    draw: Callable[[], Draw]


#: Generated streams by name, in the order of the tables.
STREAMS = {
    "pairs": Generated("classification", pairs),
    "big": Generated("classification", big),
    "rotating": Generated("classification", rotating),
    "topics": Generated("classification", topics),
    "ratings": Generated("regression", ratings),
}
