"""Prequential quality on generated streams, for the development of the learner.

Changes of the learner are tried on these streams. The real streams of the quality benchmark serve for a final
check only, so that no choice is fitted to them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sklearn.datasets as sk  # type: ignore[import-untyped]  # scikit-learn ships no types
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from river.datasets import synth

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.engines.base import Task
from bnp_online.evaluation.prequential import prequential

from ..common.program import Content, arguments_of, run
from ..common.report import Cell, Table

Sample: TypeAlias = tuple[dict[str, Any], Any]

LENGTH = 3000


@dataclass(frozen=True)
class Generated:
    """Generated stream, one for each seed."""

    task: Task
    samples: Callable[[int], Iterable[Sample]]


def _rows(data: tuple[NDArray[Any], NDArray[Any]]) -> Iterator[Sample]:
    """Yield rows of arrays as samples."""
    for x, y in zip(*(array.tolist() for array in data), strict=True):
        yield {f"x{i}": value for i, value in enumerate(x)}, y


def _one_after_another(*concepts: Iterable[Sample]) -> Iterator[Sample]:
    """Yield an equal part of each concept: abrupt drift."""
    for concept in concepts:
        yield from itertools.islice(concept, LENGTH // len(concepts))


def _agrawal(function: int, seed: int) -> Iterable[Sample]:
    return synth.Agrawal(classification_function=function, perturbation=0.05, seed=seed)


def _classes(seed: int, **how: Any) -> Iterator[Sample]:
    return _rows(sk.make_classification(LENGTH, random_state=seed, **how))


_CLASSIFICATION: dict[str, Callable[[int], Iterable[Sample]]] = {
    "SEA": lambda s: synth.SEA(variant=1, noise=0.1, seed=s),
    "SEA, abrupt": lambda s: _one_after_another(synth.SEA(0, seed=s), synth.SEA(3, seed=s + 1)),
    "Agrawal 0": lambda s: _agrawal(0, s),
    "Agrawal 4": lambda s: _agrawal(4, s),
    "Agrawal, abrupt": lambda s: _one_after_another(_agrawal(1, s), _agrawal(6, s)),
    "LED": lambda s: synth.LED(seed=s, noise_percentage=0.1, irrelevant_features=True),
    "Hyperplane, drifting": lambda s: synth.Hyperplane(
        seed=s, n_features=10, n_drift_features=5, mag_change=0.005, noise_percentage=0.05
    ),
    "RandomRBF": lambda s: synth.RandomRBF(s, s + 9, n_classes=5, n_features=10, n_centroids=30),
    "RandomRBF, drifting": lambda s: synth.RandomRBFDrift(
        s, s + 9, n_classes=4, n_features=8, n_centroids=20, change_speed=0.0005, n_drift_centroids=20
    ),
    "Waveform": lambda s: synth.Waveform(seed=s, has_noise=True),
    "STAGGER, abrupt": lambda s: _one_after_another(*(synth.STAGGER(f, seed=s) for f in range(3))),
    "Sine, abrupt": lambda s: _one_after_another(*(synth.Sine(f, seed=s) for f in range(2))),
    "Mixed": lambda s: synth.Mixed(1, seed=s),
    "RandomTree": lambda s: synth.RandomTree(
        s, s + 5, n_classes=3, n_num_features=6, n_cat_features=3, n_categories_per_feature=4
    ),
    "clusters": lambda s: _classes(s, n_features=30, n_informative=12, n_classes=6, n_clusters_per_class=3),
    "imbalanced": lambda s: _classes(
        s, n_features=15, n_informative=6, weights=[0.93], n_clusters_per_class=3
    ),
    "noisy labels": lambda s: _classes(s, n_features=12, n_informative=6, flip_y=0.3, n_clusters_per_class=4),
    "moons": lambda s: _rows(sk.make_moons(LENGTH, noise=0.25, random_state=s)),
    "circles": lambda s: _rows(sk.make_circles(LENGTH, noise=0.12, factor=0.6, random_state=s)),
    "shells": lambda s: _rows(
        sk.make_gaussian_quantiles(n_samples=LENGTH, n_features=5, n_classes=4, random_state=s)
    ),
}
_REGRESSION: dict[str, Callable[[int], Iterable[Sample]]] = {
    "Friedman": lambda s: synth.Friedman(seed=s),
    "Friedman, abrupt": lambda s: synth.FriedmanDrift("lea", position=(700, 1400, 2100), seed=s),
    "Friedman, gradual": lambda s: synth.FriedmanDrift("gra", position=(1000, 2000), seed=s),
    "Mv": lambda s: synth.Mv(seed=s),
    "Planes2D": lambda s: synth.Planes2D(seed=s),
    "line": lambda s: _rows(sk.make_regression(LENGTH, 20, n_informative=10, noise=0.1, random_state=s)),
    "noisy line": lambda s: _rows(
        sk.make_regression(LENGTH, 20, n_informative=5, noise=150.0, random_state=s)
    ),
    "Friedman 2": lambda s: _rows(sk.make_friedman2(LENGTH, noise=50.0, random_state=s)),
    "Friedman 3": lambda s: _rows(sk.make_friedman3(LENGTH, noise=0.1, random_state=s)),
    "sparse": lambda s: _rows(sk.make_sparse_uncorrelated(LENGTH, n_features=12, random_state=s)),
}
STREAMS = {name: Generated("classification", samples) for name, samples in _CLASSIFICATION.items()}
STREAMS |= {name: Generated("regression", samples) for name, samples in _REGRESSION.items()}


def score(stream: Generated, seed: int, length: int, replay: int) -> float:
    """Return accuracy in %, or the mean absolute error, of the default learner, without the first sample."""
    kind = BNPClassifier if stream.task == "classification" else BNPRegressor
    model = kind(replay=replay, seed=seed)
    samples = itertools.islice(stream.samples(seed), length)
    model.learn_one(*next(samples))
    metrics: dict[str, float] = prequential(samples, model, stream.task).metrics
    return 100.0 * metrics["Accuracy"] if stream.task == "classification" else metrics["MAE"]


def table(results: dict[str, dict[str, float]]) -> Table:
    """Return a row for each stream, the mean accuracy and the geometric mean of the errors."""
    rows = [[Cell(name), *(Cell(f"{value:.4g}") for value in of.values())] for name, of in results.items()]
    for task, what in (("classification", "mean, %"), ("regression", "geometric mean, MAE")):
        those = [list(of.values()) for name, of in results.items() if STREAMS[name].task == task]
        mean = statistics.fmean if task == "classification" else statistics.geometric_mean
        if those:
            rows.append(
                [Cell(what), *(Cell(f"{mean(column):.4g}", True) for column in zip(*those, strict=True))]
            )
    header = ["stream", *next(iter(results.values()))]
    return Table("Test, then train, one pass: accuracy in % or mean absolute error", header, rows)


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the mean over seeds by stream and learner."""
    results = {
        name: {
            label: statistics.fmean(
                score(STREAMS[name], seed, arguments.length, replay) for seed in arguments.seeds
            )
            for label, replay in (("auto", 3), ("auto, replay=0", 0))
        }
        for name in track(arguments.streams, "measuring", console=console)
    }
    return {"seeds": arguments.seeds, "length": arguments.length, "results": results}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("development", __doc__, seeds=(0, 1))
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS), metavar="NAME")
    parser.add_argument("--length", type=int, default=LENGTH, help="samples of a stream")
    run(
        "development",
        parser.parse_args(argv),
        measure,
        lambda content: {"development": [table(content["results"])]},
    )
