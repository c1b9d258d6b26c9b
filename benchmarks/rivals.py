"""Who takes part: the library's estimators, River's, and plain torch."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from river import dummy, linear_model, multiclass, neighbors, preprocessing, stats, tree

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.evaluate import Learner, prequential

from .plain_torch import Run, run_plain
from .streams import Stream

Tick: TypeAlias = Callable[[int], None]
Runner: TypeAlias = Callable[[Stream, int, float | None, Tick], Run]

_SGD_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
_ADAM_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class Contestant:
    """A model that takes part.

    Attributes
    ----------
    name : str
        What tables call it.
    about : str
        What it is, in one line.
    run : callable of (stream, seed, rate, tick)
        One pass over a stream, from an untrained model.
    rates : tuple of float or None
        Learning rates, of which the best on a stream counts, in hindsight; (None,) where nothing is tuned.
    seeded : bool
        Whether a seed makes a difference.
    ours : bool
        Whether it is this library's.
    """

    name: str
    about: str
    run: Runner
    rates: tuple[float | None, ...] = (None,)
    seeded: bool = True
    ours: bool = False

    @property
    def tuned(self) -> bool:
        """Whether it gets the best of several rates in hindsight."""
        return len(self.rates) > 1


def run_estimator(
    make: Callable[[Stream, int], Learner], stream: Stream, seed: int, rate: float | None, tick: Tick
) -> Run:
    """Run a River estimator over a stream: test, then train.

    The first sample is learned and not scored: before it there is nothing to know.
    """

    def progress(n: int) -> None:
        if n % 100 == 0:
            tick(n)

    (x, y), *rest = stream.samples
    model = make(stream, seed)
    start = time.perf_counter()
    model.learn_one(x, y)
    first = time.perf_counter() - start
    result = prequential(rest, model, stream.task, progress=progress)
    finite = all(math.isfinite(value) for value in result.metrics.values())
    return Run(result.metrics if finite else None, first + result.seconds)


def _on_numbers(make: Callable[[Stream, int], Learner]) -> Runner:
    """Return the runner of an estimator that wants every feature to be a number."""
    return lambda stream, seed, rate, tick: run_estimator(make, stream.numeric(), seed, rate, tick)


def _bnp(stream: Stream, seed: int) -> Learner:
    return BNPClassifier(seed=seed) if stream.task == "classification" else BNPRegressor(seed=seed)


def _linear(stream: Stream, seed: int) -> Learner:
    if stream.task == "regression":
        return preprocessing.StandardScaler() | linear_model.LinearRegression()
    model = linear_model.LogisticRegression()
    if len(stream.labels) > 2:
        return preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(model)
    return preprocessing.StandardScaler() | model


def _tree(stream: Stream, seed: int) -> Learner:
    if stream.task == "classification":
        return tree.HoeffdingAdaptiveTreeClassifier(seed=seed)
    # Its leaves hold linear models, hence the scaler (as in River's own example).
    return preprocessing.StandardScaler() | tree.HoeffdingAdaptiveTreeRegressor(seed=seed)


def _knn(stream: Stream, seed: int) -> Learner:
    # Exact search among the last 1,000 samples: on digits better, and faster, than River's approximate
    # default over as many (94.0% and 92.5%).
    engine = neighbors.LazySearch(window_size=1000)
    if stream.task == "classification":
        return preprocessing.StandardScaler() | neighbors.KNNClassifier(engine=engine)
    return preprocessing.StandardScaler() | neighbors.KNNRegressor(engine=engine)


def _floor(stream: Stream, seed: int) -> Learner:
    if stream.task == "classification":
        return dummy.PriorClassifier()
    return dummy.StatisticRegressor(stats.Mean())


_SGD = functools.partial(run_plain, torch.optim.SGD)
_ADAM = functools.partial(run_plain, torch.optim.Adam)

#: In the order of the table's columns. To add a rival, add an entry.
CONTESTANTS = (
    Contestant(
        "BNP",
        "BNPClassifier() / BNPRegressor(), as they come",
        functools.partial(run_estimator, _bnp),
        ours=True,
    ),
    Contestant("SGD*", "torch.optim.SGD, the same network", _SGD, _SGD_RATES),
    Contestant("Adam*", "torch.optim.Adam, the same network", _ADAM, _ADAM_RATES),
    Contestant(
        "Linear",
        "River: StandardScaler | LogisticRegression (one vs. rest) / LinearRegression",
        _on_numbers(_linear),
        seeded=False,
    ),
    Contestant(
        "HAT",
        "River: HoeffdingAdaptiveTreeClassifier / StandardScaler | HoeffdingAdaptiveTreeRegressor",
        _on_numbers(_tree),
    ),
    Contestant(
        "KNN",
        "River: StandardScaler | KNN, 5 neighbours, exact search in the last 1,000",
        _on_numbers(_knn),
        seeded=False,
    ),
    Contestant(
        "Floor",
        "River: the most frequent class / the mean, so far",
        _on_numbers(_floor),
        seeded=False,
    ),
)
