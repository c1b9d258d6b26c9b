"""Vowpal Wabbit as a rival, through its Python API, one sample at a time."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from vowpalwabbit import Workspace  # type: ignore[import-untyped]  # it ships no types

from bnp_online.engines.base import INPUT_CLIP
from bnp_online.evaluation.prequential import Learner

from ..common.streams import STANDARDIZED, Array, Stream
from .contestant import Run, Setting, Tick, run_samples
from .plain_torch import standardized

#: The features that are not 0: number and value. Numbers need no hashing, and never collide.
Pairs: TypeAlias = list[tuple[int, float]]

_NAMESPACE = "f"


class _Vowpal:
    """Workspace that takes features as numbers, so that only the label is parsed from text."""

    def __init__(self, options: str, rate: float, seed: int) -> None:
        self._workspace = Workspace(
            f"--quiet --bit_precision 20 --learning_rate {rate} --random_seed {seed} {options}"
        )

    def _predict(self, x: Pairs) -> Any:
        example = self._workspace.example({_NAMESPACE: x})
        prediction = self._workspace.predict(example)
        self._workspace.finish_example(example)
        return prediction

    def _learn(self, x: Pairs, label: str) -> None:
        example = self._workspace.example({_NAMESPACE: x})
        example.set_label_string(label)
        self._workspace.learn(example)
        self._workspace.finish_example(example)


class VowpalClassifier(_Vowpal):
    """One-against-all classifier with the logistic loss and all classes known in advance.

    Parameters
    ----------
    labels : list
        The classes.
    options : str
        Further options of the command line of Vowpal Wabbit.
    rate : float
        Learning rate.
    seed : int
        Seed of the random initialization, if any.
    """

    def __init__(self, labels: list[Any], options: str, rate: float, seed: int) -> None:
        super().__init__(
            f"--oaa {len(labels)} --loss_function logistic --probabilities {options}", rate, seed
        )
        self._labels = labels
        self._number = {label: str(i) for i, label in enumerate(labels, start=1)}

    def learn_one(self, x: Pairs, y: Any) -> None:
        """Learn one sample."""
        self._learn(x, self._number[y])

    def predict_proba_one(self, x: Pairs) -> dict[Any, float]:
        """Return the probability of each class."""
        return dict(zip(self._labels, self._predict(x), strict=True))

    def predict_one(self, x: Pairs) -> Any:
        """Return the most probable class."""
        probabilities = self.predict_proba_one(x)
        return max(probabilities, key=probabilities.__getitem__)


class VowpalRegressor(_Vowpal):
    """Regressor with the squared loss on targets that are standardized online, as for the plain networks.

    Otherwise the best rate would depend on the unit of the targets: at rate 5, ten times the default, the
    error on TrumpApproval (mean 40) is 0.49 without and 0.15 with it.

    Parameters
    ----------
    options, rate, seed
        As of `VowpalClassifier`.
    """

    def __init__(self, options: str, rate: float, seed: int) -> None:
        super().__init__(options, rate, seed)
        self._n = 0
        self._mean = 0.0
        self._deviations = 0.0  # sum of squared deviations from the mean

    @property
    def _scale(self) -> float:
        return float(np.sqrt(self._deviations / self._n)) if self._n else 0.0

    def learn_one(self, x: Pairs, y: float) -> None:
        """Learn one sample."""
        self._n += 1
        difference = y - self._mean
        self._mean += difference / self._n
        self._deviations += difference * (y - self._mean)
        self._learn(x, repr((y - self._mean) / self._scale if self._scale else 0.0))

    def predict_one(self, x: Pairs) -> float:
        """Return the prediction."""
        return self._mean + self._scale * float(self._predict(x))


def _pairs(row: Array) -> Pairs:
    places = np.flatnonzero(row)
    return list(zip(places.tolist(), row[places].tolist(), strict=True))


def run_vowpal(options: str, stream: Stream, seed: int, setting: Setting, tick: Tick) -> Run:
    """Run Vowpal Wabbit over a stream; the preparation of the samples is not timed.

    Parameters
    ----------
    options : str
        Options of its command line.
    stream : Stream
        The stream.
    seed : int
        Seed of the random initialization, if any.
    setting : dict
        The learning rate, and whether inputs are standardized on line or raw (Vowpal Wabbit's own updates are
        normalized by the scale of each feature).
    tick : callable
        Progress callback; takes the number of learned samples.
    """
    rows = stream.matrix()
    if setting["inputs"] == STANDARDIZED:
        rows = standardized(rows).clip(-INPUT_CLIP, INPUT_CLIP)
    rate: float = setting["rate"]
    model: Learner
    if stream.task == "classification":
        model = VowpalClassifier(stream.labels, options, rate, seed)
    else:
        model = VowpalRegressor(options, rate, seed)
    samples = ((_pairs(row), y) for row, y in zip(rows, stream.targets, strict=True))
    return run_samples(model, stream, samples, tick)
