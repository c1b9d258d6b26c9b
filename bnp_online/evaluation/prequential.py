"""Prequential evaluation (test, then train), with the metrics of River.

The metrics are computed here, from counts, because importing ``river.metrics`` would delay the start of a
server by a third of the import of PyTorch. The tests compare them with River's.
"""

from __future__ import annotations

import bisect
import copy
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Task
from ..errors import StateError
from ..mixture import MAX_LOSS
from ..values import Label, Vector
from .window import Window

Probabilities: TypeAlias = Mapping[Label, float]
_Codes: TypeAlias = NDArray[np.int64]


class Learner(Protocol):
    """Any River classifier or regressor."""

    def learn_one(self, x: Any, y: Any) -> None:
        """Learn one sample."""

    def predict_one(self, x: Any) -> Any:
        """Predict the target of a sample, or None."""


#: Least probability in a logarithm: the loss of a sample is at most 9.2 nats.
_LEAST = math.exp(-MAX_LOSS)
#: Greatest probability in a logarithm, as in River.
_GREATEST = 1 - 1e-15
#: Thresholds of ``river.metrics.ROCAUC``.
_THRESHOLDS = (-1e-7, *(i / 9 for i in range(1, 9)), 1.0 + 1e-7)


def log_loss(y: Label, probabilities: Probabilities) -> float:
    """Return ``−log p(y)`` in nats, at most 9.2; a class without a probability has p = 0."""
    return -math.log(min(max(probabilities.get(y, 0.0), _LEAST), _GREATEST))


class _Classification:
    """Counts of Accuracy, MacroF1, LogLoss and, for two classes, ROCAUC."""

    def __init__(self) -> None:
        self.confusion: Counter[tuple[Label, Label]] = Counter()
        self.loss_sum = 0.0
        self.classes: list[Label] = []
        # How often a target came with a probability of each class: exact until the second class appears,
        # then by ROCAUC's thresholds.
        self.levels: Counter[tuple[Label, int]] = Counter()
        self.early: Counter[tuple[Label, float]] = Counter()

    def update(self, y: Label, prediction: Label, probabilities: Probabilities) -> float:
        self.confusion[y, prediction] += 1
        loss = log_loss(y, probabilities)
        self.loss_sum += loss
        if len(self.classes) <= 2 and not (y in self.classes and [*probabilities] == self.classes):
            # With a third one ROCAUC is over for good.
            self.classes += [label for label in {**probabilities, y: 0.0} if label not in self.classes][:3]
        if len(self.classes) == 1:
            self.early[y, probabilities.get(y, 0.0)] += 1
        elif len(self.classes) == 2:
            self._rank(y, probabilities)
        return loss

    def _rank(self, y: Label, probabilities: Probabilities) -> None:
        positive = self._rank_early()
        self.levels[y, bisect.bisect_left(_THRESHOLDS, probabilities.get(positive, 0.0))] += 1

    def _rank_early(self) -> Label:
        """Move the early probabilities to the levels, and return the positive class."""
        positive = max(self.classes)
        for (early, p), count in self.early.items():
            p_positive = p if early == positive else 1.0 - p
            self.levels[early, bisect.bisect_left(_THRESHOLDS, p_positive)] += count
        self.early.clear()
        return positive

    def update_many(
        self,
        targets: Sequence[Label],
        predictions: Sequence[Label],
        of_target: Vector,
        of_label: Vector,
        labels: tuple[Label, ...],
    ) -> list[float]:
        """Score predictions as `update` in a loop.

        Parameters
        ----------
        targets, predictions : sequences of labels
            For each sample.
        of_target : array of shape (N,)
            Probability of each target.
        of_label : array of shape (N, labels)
            Probabilities of all labels.
        labels : tuple
            The labels.
        """
        losses = [-math.log(p) for p in np.clip(of_target, _LEAST, _GREATEST).tolist()]
        for loss in losses:  # `sum` rounds in another way
            self.loss_sum += loss
        self.confusion.update(zip(targets, predictions, strict=True))
        if len(self.classes) <= 2:
            self.classes += [label for label in labels if label not in self.classes][:3]
        if len(self.classes) == 1:
            self.early.update(zip(targets, of_target.tolist(), strict=True))
        elif len(self.classes) == 2:
            positive = labels.index(self._rank_early())
            levels = np.searchsorted(_THRESHOLDS, of_label[:, positive])
            self.levels.update(zip(targets, levels.tolist(), strict=True))
        return losses

    def get(self) -> dict[str, float | None]:
        n = self.confusion.total()
        if not n:
            return {"Accuracy": None, "MacroF1": None, "LogLoss": None}
        of_label: Counter[Label] = Counter()  # how often it came, or was predicted
        right: Counter[Label] = Counter()
        for (y, prediction), count in self.confusion.items():
            of_label[y] += count
            of_label[prediction] += count
            if y == prediction:
                right[y] += count
        f1 = sum(2 * right[label] / count for label, count in of_label.items())
        values: dict[str, float | None] = {
            "Accuracy": right.total() / n,
            "MacroF1": f1 / len(of_label),
            "LogLoss": self.loss_sum / n,
        }
        if len(self.classes) == 2:
            values["ROCAUC"] = self._area()
        return values

    def _area(self) -> float:
        """Return the area under the curve of true and false positive rates over the thresholds."""
        tpr, fpr = self._shares_above(max(self.classes)), self._shares_above(min(self.classes))
        steps = zip(itertools.pairwise(fpr), itertools.pairwise(tpr), strict=True)
        return sum((f0 - f1) * (t0 + t1) / 2 for (f0, f1), (t0, t1) in steps)

    def _shares_above(self, label: Label) -> list[float]:
        """Return the share of the predictions for a label's samples that are above each threshold."""
        counts = [(level, count) for (y, level), count in self.levels.items() if y == label]
        total = max(sum(count for _, count in counts), 1)
        above = (sum(count for level, count in counts if level > i) for i in range(len(_THRESHOLDS)))
        return [count / total for count in above]

    def state_dict(self) -> dict[str, Any]:
        return {
            "confusion": [[y, p, n] for (y, p), n in self.confusion.items()],
            "loss_sum": self.loss_sum,
            "classes": self.classes[:],
            "levels": [[y, level, n] for (y, level), n in self.levels.items()],
            "early": [[y, p, n] for (y, p), n in self.early.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.confusion = Counter({(y, p): n for y, p, n in state["confusion"]})
        self.loss_sum = float(state["loss_sum"])
        self.classes = list(state["classes"])
        self.levels = Counter({(y, level): n for y, level, n in state["levels"]})
        self.early = Counter({(y, p): n for y, p, n in state["early"]})


class _Regression:
    """Sums behind MAE, RMSE and R2."""

    def __init__(self) -> None:
        self.n = 0
        self.absolute_sum = 0.0
        self.squared_sum = 0.0
        self.mean = 0.0
        self.deviations = 0.0  # sum of squared deviations of the targets from their mean

    def update(self, y: float, prediction: float, probabilities: Probabilities) -> float:
        error = y - prediction
        self.n += 1
        self.absolute_sum += abs(error)
        self.squared_sum += error * error
        difference = y - self.mean
        self.mean += difference / self.n
        self.deviations += difference * (y - self.mean)
        return error * error

    def update_many(
        self, targets: Sequence[float], predictions: Sequence[float]
    ) -> tuple[list[float], list[float]]:
        """Score predictions as `update` in a loop; return the losses, and the variance after each."""
        n, absolute, squared = self.n, self.absolute_sum, self.squared_sum
        mean, deviations = self.mean, self.deviations
        losses, variances = list[float](), list[float]()
        for y, prediction in zip(targets, predictions, strict=True):
            error = y - prediction
            n += 1
            absolute += abs(error)
            squared += error * error
            difference = y - mean
            mean += difference / n
            deviations += difference * (y - mean)
            losses.append(error * error)
            variances.append(deviations / n)
        self.n, self.absolute_sum, self.squared_sum = n, absolute, squared
        self.mean, self.deviations = mean, deviations
        return losses, variances

    def get(self) -> dict[str, float | None]:
        n = self.n
        if not n:
            return {"MAE": None, "RMSE": None, "R2": None}
        explained = 1.0 - self.squared_sum / self.deviations if n > 1 and self.deviations > 0 else 0.0
        return {"MAE": self.absolute_sum / n, "RMSE": math.sqrt(self.squared_sum / n), "R2": explained}

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update({name: type(value)(state[name]) for name, value in vars(self).items()})


def _counts(task: Task) -> _Classification | _Regression:
    return _Classification() if task == "classification" else _Regression()


class Scores(NamedTuple):
    """Predictions of consecutive samples, and their losses."""

    predictions: list[Any]
    losses: list[float]


class PrequentialMetrics:
    """Metrics of predictions made before their labels are learned: cumulative, and over a window.

    Classification: Accuracy, MacroF1, LogLoss and, while there are two classes, ROCAUC (the greater label is
    the positive one). Regression: MAE, RMSE, R2. The values equal those of ``river.metrics``, except that the
    loss of a sample is at most 9.2 nats, and that they are None without a prediction. The state is plain
    numbers.

    Parameters
    ----------
    task : {"classification", "regression"}
        Kind of the predictions.
    window : int
        Number of latest predictions in the windowed values.

    Examples
    --------
    >>> scores = PrequentialMetrics("regression")
    >>> scores.update(3.0, 2.0)
    1.0
    >>> scores.report()["cumulative"]["MAE"]
    1.0
    """

    def __init__(self, task: Task, window: int = 1000) -> None:
        self.task = task
        self.window = window
        self._all = _counts(task)
        self._latest = Window(window)
        self._windowed: tuple[int, dict[str, float | None]] | None = None

    @property
    def n(self) -> int:
        """Number of predictions scored."""
        return self._all.confusion.total() if isinstance(self._all, _Classification) else self._all.n

    @property
    def target_variance(self) -> float | None:
        """Variance of the targets scored, 0 before the first; None for a classification."""
        counts = self._all
        return None if isinstance(counts, _Classification) else counts.deviations / max(counts.n, 1)

    @property
    def latest(self) -> tuple[Any, Any] | None:
        """Latest target and its prediction; None before the first."""
        return self._latest.latest

    def update(self, y: Any, prediction: Any, probabilities: Probabilities | None = None) -> float | None:
        """Score a prediction.

        Parameters
        ----------
        y : label or number
            The target.
        prediction : label, number or None
            The prediction; None (before the first label) is not scored.
        probabilities : dict of label to float
            Probabilities of a classification; without them the predicted label has probability 1.

        Returns
        -------
        float or None
            The loss: ``−log p(y)`` in nats, or the squared error; None without a prediction.
        """
        if prediction is None:
            return None
        if self.task == "classification" and not probabilities:
            probabilities = {prediction: 1.0}
        probabilities = probabilities or {}
        self._latest.add(y, prediction, probabilities)
        return self._all.update(y, prediction, probabilities)

    def update_classes(self, targets: _Codes, labels: tuple[Label, ...], probabilities: Vector) -> Scores:
        """Score the predictions of consecutive samples of a classification, as `update` in a loop.

        Parameters
        ----------
        targets : array of int of shape (N,)
            Positions of the targets in `labels`.
        labels : tuple
            All labels of the model.
        probabilities : array of shape (N, labels)
            Probabilities; a prediction is the first label with the greatest one.

        Returns
        -------
        Scores
            Prediction and loss of each sample.
        """
        counts, best = self._all, probabilities.argmax(axis=1)
        assert isinstance(counts, _Classification)  # noqa: S101 (the caller knows the task)
        predictions, known = [labels[i] for i in best.tolist()], [labels[i] for i in targets.tolist()]
        self._latest.add_many(known, predictions, labels, probabilities)
        of_target = probabilities[np.arange(len(targets)), targets]
        return Scores(predictions, counts.update_many(known, predictions, of_target, probabilities, labels))

    def update_numbers(
        self, targets: Sequence[float], predictions: Sequence[float]
    ) -> tuple[list[float], list[float]]:
        """Score the predictions of consecutive samples of a regression, as `update` in a loop.

        Returns
        -------
        losses : list of float
            Squared error of each prediction.
        variances : list of float
            `target_variance` after each.
        """
        counts = self._all
        assert isinstance(counts, _Regression)  # noqa: S101 (the caller knows the task)
        self._latest.add_many(targets, predictions, (), np.empty((len(targets), 0)))
        return counts.update_many(targets, predictions)

    def confusion(self, most: int) -> dict[str, Any]:
        """Return the confusion matrix of the window.

        Parameters
        ----------
        most : int
            Maximum number of classes in the matrix: the most frequent ones in the window.

        Returns
        -------
        dict
            ``labels``; ``counts``, of shape (labels, labels), by target and prediction; ``other``, the
            number of samples of other classes.
        """
        pairs = Counter((y, prediction) for y, prediction, _, _ in self._latest)
        frequency: Counter[Label] = Counter()
        for (y, prediction), count in pairs.items():
            frequency[y] += count
            frequency[prediction] += count
        labels = [label for label, _ in frequency.most_common(most)]
        counts = [[pairs[y, prediction] for prediction in labels] for y in labels]
        return {"labels": labels, "counts": counts, "other": len(self._latest) - sum(map(sum, counts))}

    def pairs(self, most: int) -> list[tuple[Any, Any]]:
        """Return the latest targets and their predictions, oldest first, at most `most`."""
        return [(y, prediction) for y, prediction, _, _ in self._latest][-most:]

    def cumulative(self) -> dict[str, float | None]:
        """Return the metrics of all predictions, by name; each is None before the first prediction."""
        return self._all.get()

    def report(self) -> dict[str, Any]:
        """Return ``{"n", "cumulative": {...}, "window": {"size", "n", ...}}``."""
        return {
            "n": self.n,
            "cumulative": self._all.get(),
            "window": {"size": self.window, "n": len(self._latest), **self.windowed()},
        }

    def windowed(self) -> dict[str, float | None]:
        """Return the metrics of the window, by name; each is None before the first prediction."""
        if self._windowed is None or self._windowed[0] != self.n:  # a window takes a millisecond
            windowed = _counts(self.task)
            for y, prediction, labels, values in self._latest:
                windowed.update(y, prediction, dict(zip(labels, values, strict=True)))
            self._windowed = self.n, windowed.get()
        return {**self._windowed[1]}

    def copy(self) -> PrequentialMetrics:
        """Return a copy; this takes a fraction of the time of `report`."""
        twin = PrequentialMetrics(self.task, self.window)
        vars(twin._all).update({name: copy.copy(value) for name, value in vars(self._all).items()})
        twin._latest, twin._windowed = self._latest.copy(), self._windowed
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        latest = [[y, prediction, [*labels], values] for y, prediction, labels, values in self._latest]
        return {"task": self.task, "window": self.window, "all": self._all.state_dict(), "latest": latest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If the state is of another task or window.
        """
        if (state.get("task"), state.get("window")) != (self.task, self.window):
            raise StateError("the metrics are of another task or window")
        self._all.load_state_dict(state["all"])
        self._latest.load((y, prediction, *_unpaired(*kept)) for y, prediction, *kept in state["latest"])
        self._windowed = None


def _unpaired(labels: Any, values: Any = None) -> tuple[Any, Any]:
    """Return labels and their probabilities. An earlier version stored pairs of them."""
    return (labels, values) if values is not None else ([y for y, _ in labels], [p for _, p in labels])


@dataclass(frozen=True)
class Result:
    """Result of `prequential`.

    Attributes
    ----------
    metrics : dict of str to float
        Cumulative values at the end of the stream; None where no prediction was scored.
    n : int
        Samples in the stream.
    seconds : float
        Time spent in predicting and learning.
    curve : list of (int, dict)
        Number of labels, and the windowed metrics at that point.
    """

    metrics: dict[str, Any]
    n: int
    seconds: float
    curve: list[tuple[int, dict[str, Any]]]


def prequential(
    samples: Iterable[tuple[Any, Any]],
    model: Learner,
    task: Task,
    *,
    delay: int | None = None,
    window: int = 1000,
    every: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Predict each sample when it arrives, and learn it when its label does.

    Parameters
    ----------
    samples : iterable of (x, y)
        The stream.
    model : River classifier or regressor
        Learns in place.
    task : {"classification", "regression"}
        Which metrics to compute.
    delay : int
        Delay of a label in samples (``river.stream.simulate_qa``); None: no delay. With a delay, an estimator
        of this package judges its experts by what they predicted when the sample arrived.
    window : int
        Size of the window of `Result.curve`.
    every : int
        Number of labels between points of the curve; None: no curve.
    progress : callable
        Called after each label with the number of labels.
    """
    from river import stream  # imported late: it imports pandas and scikit-learn

    scores = PrequentialMetrics(task, window)
    predict_proba = getattr(model, "predict_proba_one", None) if task == "classification" else None
    predict_experts = getattr(model, "predict_experts_one", None) if delay is not None else None
    waiting: dict[int, tuple[Any, Probabilities | None, dict[str, Any]]] = {}
    curve: list[tuple[int, dict[str, float]]] = []
    n = 0
    seconds = 0.0
    for i, x, y in stream.simulate_qa(samples, moment=None, delay=delay):
        start = time.perf_counter()
        if y is None:
            probabilities = predict_proba(x) if predict_proba is not None else None
            if probabilities is None:
                prediction = model.predict_one(x)
            else:
                prediction = max(probabilities, key=probabilities.get) if probabilities else None
            late = {} if predict_experts is None else {"given": predict_experts(x)}
            waiting[i] = prediction, probabilities, late
            seconds += time.perf_counter() - start
            continue
        prediction, probabilities, late = waiting.pop(i)
        model.learn_one(x, y, **late)
        seconds += time.perf_counter() - start
        n += 1
        scores.update(y, prediction, probabilities)
        if every is not None and n % every == 0:
            curve.append((n, scores.report()["window"]))
        if progress is not None:
            progress(n)
    return Result(scores.report()["cumulative"], n, seconds, curve)
