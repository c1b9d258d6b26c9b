"""Vowpal Wabbit as a rival, on lines of text."""

from __future__ import annotations

import math
from typing import Any

from vowpalwabbit import Workspace  # type: ignore[import-untyped]  # it ships no types

from ..common.streams import Stream
from ..quality.contestant import Setting
from .passes import Model

#: Bits of the hashed weights: 16 million, so that pairs rarely collide.
_BITS = 24


class _Vowpal:
    """Workspace with one pass: the prediction that learning returns is from before the update."""

    def __init__(self, options: str, rate: float, seed: int) -> None:
        self._workspace = Workspace(
            f"--quiet --bit_precision {_BITS} --learning_rate {rate} --random_seed {seed} {options}"
        )
        self._kind = self._workspace.get_prediction_type()

    def _step(self, label: str, line: str) -> Any:
        example = self._workspace.example(f"{label} {line}")
        self._workspace.learn(example)
        prediction = example.get_prediction(self._kind)
        self._workspace.finish_example(example)
        return prediction


class Binary(_Vowpal):
    """Classifier of False and True with the logistic loss."""

    def __init__(self, options: str, rate: float, seed: int) -> None:
        super().__init__(f"--loss_function logistic --link logistic {options}", rate, seed)

    def step(self, x: str, y: bool) -> dict[bool, float]:
        """Return the probability of each class, then learn."""
        p: float = self._step("1" if y else "-1", x)
        return {False: 1.0 - p, True: p}


class OneAgainstAll(_Vowpal):
    """One-against-all classifier with all classes known in advance.

    Parameters
    ----------
    labels : list
        The classes.
    options, rate, seed
        Further options; learning rate; seed of the random initialization, if any.
    """

    def __init__(self, labels: list[Any], options: str, rate: float, seed: int) -> None:
        super().__init__(
            f"--oaa {len(labels)} --loss_function logistic --probabilities {options}", rate, seed
        )
        self._labels = labels
        self._number = {label: str(i) for i, label in enumerate(labels, start=1)}

    def step(self, x: str, y: Any) -> dict[Any, float]:
        """Return the probability of each class, then learn."""
        return dict(zip(self._labels, self._step(self._number[y], x), strict=True))


class Regressor(_Vowpal):
    """Regressor with the squared loss on targets that are standardized by the moments so far."""

    def __init__(self, options: str, rate: float, seed: int) -> None:
        super().__init__(options, rate, seed)
        self._n = 0
        self._mean = 0.0
        self._deviations = 0.0

    def step(self, x: str, y: float) -> float:
        """Return the prediction, then learn."""
        before, scale_before = self._mean, self._scale
        self._n += 1
        difference = y - self._mean
        self._mean += difference / self._n
        self._deviations += difference * (y - self._mean)
        target = (y - self._mean) / self._scale if self._scale else 0.0
        return before + scale_before * float(self._step(repr(target), x))

    @property
    def _scale(self) -> float:
        return math.sqrt(self._deviations / self._n) if self._n else 0.0


def make(options: str, stream: Stream, seed: int, setting: Setting) -> Model:
    """Return Vowpal Wabbit for a stream, with further options of its command line."""
    rate: float = setting["rate"]
    if stream.task == "regression":
        return Regressor(options, rate, seed)
    if len(stream.labels) == 2:
        return Binary(options, rate, seed)
    return OneAgainstAll(stream.labels, options, rate, seed)
