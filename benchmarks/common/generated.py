"""Generated streams in three groups: autocorrelated, stationary and drifting.

Each is determined by its seed. Changes of the learner are tried on these streams: no choice is fitted to the
real ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sklearn.datasets as sk  # type: ignore[import-untyped]  # scikit-learn ships no types
from numpy.typing import NDArray
from river import datasets
from river.datasets import synth

from bnp_online.engines.base import Task

from .autocorrelated import counts, filmed, order_in_runs, order_with_persistence, price, sensor, walk

Sample: TypeAlias = tuple[dict[str, Any], Any]

#: Greatest number of samples of a generated stream.
LENGTH = 3000
AUTOCORRELATED, STATIONARY, DRIFTING = "autocorrelated", "stationary", "drifting"
#: Groups of streams, in the order of the tables.
GROUPS = (AUTOCORRELATED, STATIONARY, DRIFTING)


@dataclass(frozen=True)
class Generated:
    """Generated stream.

    Attributes
    ----------
    task : {"classification", "regression"}
        Prediction task.
    group : str
        One of `GROUPS`.
    samples : callable of (seed)
        Returns the samples, at least `LENGTH` or all that exist.
    """

    task: Task
    group: str
    samples: Callable[[int], Iterable[Sample]]


def rows(data: tuple[NDArray[Any], NDArray[Any]]) -> Iterator[Sample]:
    """Yield rows of arrays X (n, d) and y (n,) as samples."""
    for x, y in zip(*(array.tolist() for array in data), strict=True):
        yield {f"x{i}": value for i, value in enumerate(x)}, y


def _one_after_another(*concepts: Iterable[Sample]) -> Iterator[Sample]:
    """Yield an equal part of each concept: abrupt drift."""
    for concept in concepts:
        yield from itertools.islice(concept, LENGTH // len(concepts))


def _agrawal(function: int, seed: int) -> Iterable[Sample]:
    return synth.Agrawal(classification_function=function, perturbation=0.05, seed=seed)


def _classes(seed: int, **how: Any) -> Iterator[Sample]:
    return rows(sk.make_classification(LENGTH, random_state=seed, **how))


def _digits_in_runs(seed: int) -> Iterator[Sample]:
    X, y = sk.load_digits(return_X_y=True)
    order = order_in_runs(X, y, 15, seed)
    return rows((X[order], y[order]))


def _segments() -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    samples = list(datasets.ImageSegments())
    return np.array([list(x.values()) for x, _ in samples]), np.array([y for _, y in samples])


def _segments_in_runs(seed: int) -> Iterator[Sample]:
    X, y = _segments()
    order = order_in_runs(X, y, 15, seed)
    return rows((X[order], y[order]))


def _segments_persisting(seed: int) -> Iterator[Sample]:
    X, y = _segments()
    order = order_with_persistence(y, 0.9, seed)
    return rows((X[order], y[order]))


_Makers: TypeAlias = dict[str, Callable[[int], Iterable[Sample]]]
_CLASSIFICATION: dict[str, _Makers] = {
    AUTOCORRELATED: {
        "filmed": lambda s: rows(filmed(s, n=LENGTH)),
        "filmed, long runs": lambda s: rows(filmed(s, classes=12, d=10, n=LENGTH, run=40)),
        "price": lambda s: rows(price(s, n=LENGTH)),
        "walk": lambda s: rows(walk(s, n=LENGTH)),
        "walk, new units": lambda s: rows(walk(s, n=LENGTH, units=True)),
        "digits in runs": _digits_in_runs,
        "segments in runs": _segments_in_runs,
        "segments, persisting": _segments_persisting,
    },
    STATIONARY: {
        "SEA": lambda s: synth.SEA(variant=1, noise=0.1, seed=s),
        "Agrawal 0": lambda s: _agrawal(0, s),
        "Agrawal 4": lambda s: _agrawal(4, s),
        "LED": lambda s: synth.LED(seed=s, noise_percentage=0.1, irrelevant_features=True),
        "RandomRBF": lambda s: synth.RandomRBF(s, s + 9, n_classes=5, n_features=10, n_centroids=30),
        "Waveform": lambda s: synth.Waveform(seed=s, has_noise=True),
        "Mixed": lambda s: synth.Mixed(1, seed=s),
        "RandomTree": lambda s: synth.RandomTree(
            s, s + 5, n_classes=3, n_num_features=6, n_cat_features=3, n_categories_per_feature=4
        ),
        "clusters": lambda s: _classes(
            s, n_features=30, n_informative=12, n_classes=6, n_clusters_per_class=3
        ),
        "imbalanced": lambda s: _classes(
            s, n_features=15, n_informative=6, weights=[0.93], n_clusters_per_class=3
        ),
        "noisy labels": lambda s: _classes(
            s, n_features=12, n_informative=6, flip_y=0.3, n_clusters_per_class=4
        ),
        "moons": lambda s: rows(sk.make_moons(LENGTH, noise=0.25, random_state=s)),
        "circles": lambda s: rows(sk.make_circles(LENGTH, noise=0.12, factor=0.6, random_state=s)),
        "shells": lambda s: rows(
            sk.make_gaussian_quantiles(n_samples=LENGTH, n_features=5, n_classes=4, random_state=s)
        ),
    },
    DRIFTING: {
        "SEA, abrupt": lambda s: _one_after_another(synth.SEA(0, seed=s), synth.SEA(3, seed=s + 1)),
        "Agrawal, abrupt": lambda s: _one_after_another(_agrawal(1, s), _agrawal(6, s)),
        "Hyperplane, drifting": lambda s: synth.Hyperplane(
            seed=s, n_features=10, n_drift_features=5, mag_change=0.005, noise_percentage=0.05
        ),
        "RandomRBF, drifting": lambda s: synth.RandomRBFDrift(
            s, s + 9, n_classes=4, n_features=8, n_centroids=20, change_speed=0.0005, n_drift_centroids=20
        ),
        "STAGGER, abrupt": lambda s: _one_after_another(*(synth.STAGGER(f, seed=s) for f in range(3))),
        "Sine, abrupt": lambda s: _one_after_another(*(synth.Sine(f, seed=s) for f in range(2))),
    },
}
_REGRESSION: dict[str, _Makers] = {
    AUTOCORRELATED: {
        "sensor": lambda s: rows(sensor(s, n=LENGTH)),
        "sensor, hidden state": lambda s: rows(sensor(s, n=LENGTH, hidden=1.0)),
        "sensor, new units": lambda s: rows(sensor(s, n=LENGTH, units=True)),
        "counts": lambda s: rows(counts(s, n=LENGTH)),
    },
    STATIONARY: {
        "Friedman": lambda s: synth.Friedman(seed=s),
        "Mv": lambda s: synth.Mv(seed=s),
        "Planes2D": lambda s: synth.Planes2D(seed=s),
        "line": lambda s: rows(sk.make_regression(LENGTH, 20, n_informative=10, noise=0.1, random_state=s)),
        "noisy line": lambda s: rows(
            sk.make_regression(LENGTH, 20, n_informative=5, noise=150.0, random_state=s)
        ),
        "Friedman 2": lambda s: rows(sk.make_friedman2(LENGTH, noise=50.0, random_state=s)),
        "Friedman 3": lambda s: rows(sk.make_friedman3(LENGTH, noise=0.1, random_state=s)),
        "sparse": lambda s: rows(sk.make_sparse_uncorrelated(LENGTH, n_features=12, random_state=s)),
    },
    DRIFTING: {
        "Friedman, abrupt": lambda s: synth.FriedmanDrift("lea", position=(700, 1400, 2100), seed=s),
        "Friedman, gradual": lambda s: synth.FriedmanDrift("gra", position=(1000, 2000), seed=s),
    },
}
_TASKS: tuple[tuple[Task, dict[str, _Makers]], ...] = (
    ("classification", _CLASSIFICATION),
    ("regression", _REGRESSION),
)
#: Generated streams by name. To add one, add an entry above.
STREAMS = {
    name: Generated(task, group, samples)
    for group in GROUPS
    for task, makers in _TASKS
    for name, samples in makers[group].items()
}
