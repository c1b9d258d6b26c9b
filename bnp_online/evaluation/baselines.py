"""Baselines: predictions without features.

For a classification, the *majority* (the most frequent label so far; its log loss is that of the label
frequencies, with one added for each label and for an unknown one) and the *last* label. For a regression,
the *mean* of the targets so far and the *last* target.
"""

from __future__ import annotations

import copy
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Task
from ..errors import StateError
from ..values import Label
from .kernels import LAST, MAJORITY, SEEN, baseline_scores

Scored: TypeAlias = tuple[float, float, float]
"""Scores of the baselines for one sample: accuracies of the majority and the last label, and log loss of the
frequencies; or absolute errors of the mean and the last target, and squared error of the mean."""
_START = (0.0, 0.0, 0.0)


class Baselines:
    """Scores of predictions from the labels alone: cumulative, and over a window.

    The first label is not scored. The state is plain numbers and labels.

    Parameters
    ----------
    task : {"classification", "regression"}
        Kind of the labels.
    window : int
        Number of latest labels in the windowed values.

    Examples
    --------
    >>> baselines = Baselines("classification")
    >>> for label in ("cat", "cat", "dog", "cat"):
    ...     _ = baselines.update(label)
    >>> scores = baselines.report()["cumulative"]
    >>> round(scores["majority"]["Accuracy"], 2), round(scores["last"]["Accuracy"], 2)
    (0.67, 0.33)
    """

    def __init__(self, task: Task, window: int = 1000) -> None:
        self.task = task
        self.window = window
        self.n = 0
        self._seen = 0
        self._last: Any = None
        self._counts: Counter[Label] = Counter()
        self._majority: Any = None
        self._mean = 0.0
        self._sums = _START
        self._latest = array("d")  # three numbers for each sample, of up to 1.25 windows

    def update(self, y: Any) -> Scored | None:
        """Score the predictions of a label or target, then learn it. Return the scores, if there are any."""
        scored = None
        if self._seen:
            scored = self._score_class(y) if self.task == "classification" else self._score_number(y)
            self.n += 1
            a, b, c = self._sums
            self._sums = (a + scored[0], b + scored[1], c + scored[2])
            self._keep(scored)
        self._seen += 1
        self._last = y
        if self.task == "classification":
            self._counts[y] += 1
            if self._counts[y] > self._counts[self._majority]:
                self._majority = y
        else:
            self._mean += (y - self._mean) / self._seen
        return scored

    def update_many(self, codes: NDArray[np.int64], labels: Sequence[Label]) -> list[float]:
        """Score and learn labels, as `update` in a loop; return the scores in a row.

        Parameters
        ----------
        codes : array of int, shape (N,)
            Positions of the labels.
        labels : sequence
            All labels of the model.
        """
        seen = np.array([self._counts.get(label, 0) for label in labels], np.int64)
        if len({*labels}) < len(labels) or not self._seen or not seen[codes].all():  # a label is new
            found = [self.update(labels[code]) for code in codes.tolist()]
            return [each for scored in found if scored is not None for each in scored]
        places = labels.index(self._majority), labels.index(self._last)
        state, sums = np.array([*places, self._seen, len(self._counts)]), np.array(self._sums)
        scores = np.empty((len(codes), 3))
        baseline_scores(codes, seen, state, sums, scores)
        self._counts.update({labels[i]: int(seen[i]) - self._counts[labels[i]] for i in {*codes.tolist()}})
        self._majority, self._last = labels[state[MAJORITY]], labels[state[LAST]]
        self._seen, self.n = int(state[SEEN]), self.n + len(codes)
        a, b, c = sums.tolist()
        self._sums = (a, b, c)
        scored: list[float] = scores.ravel().tolist()
        self._keep(scored)
        return scored

    def update_numbers(self, targets: Sequence[float]) -> list[float]:
        """Score and learn targets of a regression, as `update` in a loop; return the scores in a row."""
        mean, last, seen, (a, b, c) = self._mean, self._last, self._seen, self._sums
        scored = list[float]()
        for y in targets:
            if seen:
                error = y - mean
                scored += (abs(error), abs(y - last), error * error)
                a, b, c = a + scored[-3], b + scored[-2], c + scored[-1]
            seen += 1
            mean += (y - mean) / seen
            last = y
        self._mean, self._last, self._seen, self._sums = mean, last, seen, (a, b, c)
        self.n += len(scored) // 3
        self._keep(scored)
        return scored

    def _keep(self, scored: Iterable[float]) -> None:
        """Add scores to the window."""
        self._latest.extend(scored)
        if len(self._latest) > 3 * (self.window + self.window // 4):
            del self._latest[: len(self._latest) - 3 * self.window]

    def _scored(self) -> list[float]:
        """Return the scores in the window: three numbers for each sample."""
        return self._latest[-3 * self.window :].tolist()

    def _score_class(self, y: Label) -> Scored:
        """Return the accuracies of the majority and the last label, and the log loss of the frequencies."""
        counts = self._counts
        loss = math.log((self._seen + len(counts) + 1) / (counts.get(y, 0) + 1))
        return float(y == self._majority), float(y == self._last), loss

    def _score_number(self, y: float) -> Scored:
        """Return the absolute errors of the mean and of the last target, and the squared one of the mean."""
        error = y - self._mean
        return abs(error), abs(y - self._last), error * error

    def report(self) -> dict[str, Any]:
        """Return ``{"n", "cumulative": {"majority" or "mean": {...}, "last": {...}}, "window": {...}}``.

        Scores over no labels are None.
        """
        latest = self._scored()
        sums = sum(latest[0::3]), sum(latest[1::3]), sum(latest[2::3])
        return {
            "n": self.n,
            "cumulative": self._named(self._sums, self.n),
            "window": self._named(sums, len(latest) // 3),
        }

    def _named(self, sums: Iterable[float], count: int) -> dict[str, dict[str, float | None]]:
        first, last, loss = (each / count if count else None for each in sums)
        if self.task == "classification":
            return {"majority": {"Accuracy": first, "LogLoss": loss}, "last": {"Accuracy": last}}
        root = None if loss is None else math.sqrt(loss)
        return {"mean": {"MAE": first, "RMSE": root}, "last": {"MAE": last}}

    def copy(self) -> Baselines:
        """Return a copy."""
        twin = copy.copy(self)
        twin._counts, twin._latest = self._counts.copy(), self._latest[:]
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {
            "task": self.task,
            "window": self.window,
            "n": self.n,
            "seen": self._seen,
            "last": self._last,
            "counts": [list(item) for item in self._counts.items()],
            "majority": self._majority,
            "mean": self._mean,
            "sums": list(self._sums),
            "latest": [[*scored] for scored in zip(*[iter(self._scored())] * 3, strict=True)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If the state is of another task or window.
        """
        if (state.get("task"), state.get("window")) != (self.task, self.window):
            raise StateError("the baselines are of another task or window")
        self.n, self._seen, self._last = state["n"], state["seen"], state["last"]
        self._counts = Counter(dict(state["counts"]))
        self._majority, self._mean = state["majority"], float(state["mean"])
        a, b, c = map(float, state["sums"])
        self._sums = (a, b, c)
        self._latest = array("d")
        for p, q, r in state["latest"]:
            self._keep((float(p), float(q), float(r)))
