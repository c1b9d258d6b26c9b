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
from collections.abc import Iterable, Mapping
from typing import Any

from ..engines.base import Task
from ..errors import StateError
from ..values import Label

_Scored = tuple[float, float, float]
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
    ...     baselines.update(label)
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

    def update(self, y: Any) -> None:
        """Score the predictions of a label or target, then learn it."""
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

    def _keep(self, scored: _Scored) -> None:
        """Add scores to the window."""
        self._latest.extend(scored)
        if len(self._latest) > 3 * (self.window + self.window // 4):
            del self._latest[: len(self._latest) - 3 * self.window]

    def _scored(self) -> list[float]:
        """Return the scores in the window: three numbers for each sample."""
        return self._latest[-3 * self.window :].tolist()

    def _score_class(self, y: Label) -> _Scored:
        """Return the accuracies of the majority and the last label, and the log loss of the frequencies."""
        counts = self._counts
        loss = math.log((self._seen + len(counts) + 1) / (counts.get(y, 0) + 1))
        return float(y == self._majority), float(y == self._last), loss

    def _score_number(self, y: float) -> _Scored:
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
