"""Drift detectors: they detect a change of the mean of a stream of numbers, such as losses.

They give the same results as River's `ADWIN` and `PageHinkley`, which the tests compare. River's `ADWIN` is
not used because its window, in compiled code, cannot be saved as numbers, and because importing
``river.drift`` takes longer than importing PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigurationError, StateError
from .kernels import BUCKETS, CLOCK, SIZES, TOTAL, WIDTH, adwin_insert, adwin_shrink


class Detector(Protocol):
    """Detects a change of the mean, one number at a time."""

    def update(self, value: float) -> float:
        """Add a number; return the change of the mean, 0 without a detection."""

    def update_many(self, values: Sequence[float]) -> list[tuple[int, float]]:
        """Add numbers; return the position of each at which a change was detected, and the change."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`."""


class ADWIN:
    """Adaptive windowing: a window of the latest numbers with a constant mean.

    The window is stored as sums and sums of squared deviations of buckets, at most five of each power of
    two. Every 32 numbers, each border of two buckets divides it. A significant difference between the means
    of the two parts is a change, and the window is reset.

    Parameters
    ----------
    delta : float
        Significance level: the probability of such a difference by chance, in (0, 1).

    References
    ----------
    A. Bifet, R. Gavaldà, *Learning from time-changing data with adaptive windowing*, SDM 2007.

    Examples
    --------
    >>> detector = ADWIN()
    >>> changes = [detector.update(0.1 if i < 200 else 0.9) for i in range(300)]
    >>> next(i for i, change in enumerate(changes) if change > 0.0)
    223
    """

    def __init__(self, delta: float = 0.002) -> None:
        if not 0.0 < delta < 1.0:
            raise ConfigurationError("delta", f"{delta} is not in (0, 1)")
        self.delta = delta
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[float] = []  # added to the window together, in half the time
        self._buckets = np.zeros((SIZES, BUCKETS + 1, 2))
        self._counts = np.zeros(SIZES, np.int64)
        self._totals = np.zeros(3)

    def update(self, value: float) -> float:
        """Add a number; return the change of the mean, 0 without a detection.

        Parameters
        ----------
        value : float
            A finite number. The significance level holds in [0, 1], and roughly for slightly larger numbers.
        """
        self._waiting.append(value)
        return self._search() if len(self._waiting) == CLOCK else 0.0

    def update_many(self, values: Sequence[float]) -> list[tuple[int, float]]:
        """Add numbers; return the position of each at which a change was detected, and the change."""
        found, start = [], 0
        while start < len(values):
            stop = start + CLOCK - len(self._waiting)
            self._waiting += values[start:stop]
            if len(self._waiting) == CLOCK and (change := self._search()):
                found.append((stop - 1, change))
            start = stop
        return found

    def _search(self) -> float:
        """Add the waiting numbers to the window; return the change of the mean, 0 without a detection."""
        window = self._buckets, self._counts, self._totals
        adwin_insert(np.array(self._waiting), *window)
        self._waiting.clear()
        before = self._mean
        if not adwin_shrink(*window, self.delta):
            return 0.0
        change = self._mean - before
        self._begin()
        return change

    @property
    def _mean(self) -> float:
        return float(self._totals[TOTAL] / self._totals[WIDTH])

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        sizes = int(np.flatnonzero(self._counts).max(initial=0)) + 1
        rows = [self._buckets[i, : self._counts[i]].tolist() for i in range(sizes)]
        return {"waiting": self._waiting[:], "totals": self._totals.tolist(), "rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`; raises `StateError` for anything else."""
        other = ADWIN(self.delta)
        try:
            for i, row in enumerate(state["rows"]):
                other._counts[i] = len(row)
                other._buckets[i, : len(row)] = np.array(row, np.float64).reshape(len(row), 2)
            width, total, squares = map(float, state["totals"])
            other._totals[:] = width, total, squares
            other._waiting = list(map(float, state["waiting"]))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state of the detector is damaged: {error!r}") from error
        vars(self).update(vars(other))


class PageHinkley:
    """Page-Hinkley test for a rising mean: the height of a sum of deviations above its minimum.

    Parameters
    ----------
    delta : float
        Tolerated deviation, ≥ 0.
    threshold : float
        Height that is a change, > 0.

    References
    ----------
    E. S. Page, *Continuous inspection schemes*, Biometrika 41, 1954.

    Examples
    --------
    >>> detector = PageHinkley(threshold=5.0)
    >>> changes = [detector.update(0.1 if i < 200 else 0.9) for i in range(300)]
    >>> next(i for i, change in enumerate(changes) if change > 0.0)
    206
    """

    #: Number of values before the first detection, and retention weight of the sum.
    FIRST, KEPT = 30, 1.0 - 0.0001

    def __init__(self, delta: float = 0.005, threshold: float = 50.0) -> None:
        if not 0.0 <= delta < math.inf:
            raise ConfigurationError("delta", f"{delta} is not a finite number ≥ 0")
        if not 0.0 < threshold < math.inf:
            raise ConfigurationError("threshold", f"{threshold} is not a finite number > 0")
        self.delta = delta
        self.threshold = threshold
        self._begin()

    def _begin(self) -> None:
        self._n = 0
        self._mean = self._sum = 0.0
        self._lowest = math.inf

    def update(self, value: float) -> float:
        """Add a number; return its distance above the mean at a detection, else 0."""
        self._n += 1
        self._mean += (value - self._mean) / self._n
        above = value - self._mean
        self._sum = self.KEPT * self._sum + above - self.delta
        self._lowest = min(self._lowest, self._sum)
        if self._n < self.FIRST or self._sum - self._lowest <= self.threshold:
            return 0.0
        self._begin()
        return above

    def update_many(self, values: Sequence[float]) -> list[tuple[int, float]]:
        """Add numbers; return the position of each at which a change was detected, and the distance."""
        update = self.update
        return [(i, change) for i, value in enumerate(values) if (change := update(value))]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        lowest = None if self._n == 0 else self._lowest
        return {"n": self._n, "mean": self._mean, "sum": self._sum, "lowest": lowest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`; raises `StateError` for anything else."""
        try:
            n, mean, total = int(state["n"]), float(state["mean"]), float(state["sum"])
            lowest = math.inf if state["lowest"] is None else float(state["lowest"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state of the detector is damaged: {error!r}") from error
        self._n, self._mean, self._sum, self._lowest = n, mean, total, lowest
