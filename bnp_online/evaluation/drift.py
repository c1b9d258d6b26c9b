"""Drift detectors: they detect a change of the mean of a stream of numbers, such as losses.

They give the same results as River's `ADWIN` and `PageHinkley`, which the tests compare. River's `ADWIN` is
not used because its window, in compiled code, cannot be saved as numbers, and because importing
``river.drift`` takes longer than importing PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import ConfigurationError, StateError

#: Updates between searches for a change.
_CLOCK = 32
#: Maximum number of buckets of one size.
_BUCKETS = 5
#: Minimum length of a part of the window in a comparison.
_SHORTEST = 5


class Detector(Protocol):
    """Detects a change of the mean, one number at a time."""

    def update(self, value: float) -> float:
        """Add a number; return the change of the mean, 0 without a detection."""

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
        self._width = self._total = self._squares = 0.0
        #: By the logarithm of their size, the buckets from the oldest to the newest: sum, squared deviations.
        self._rows: list[list[tuple[float, float]]] = [[]]

    def update(self, value: float) -> float:
        """Add a number; return the change of the mean, 0 without a detection.

        Parameters
        ----------
        value : float
            A finite number. The significance level holds in [0, 1], and roughly for slightly larger numbers.
        """
        self._waiting.append(value)
        if len(self._waiting) < _CLOCK:
            return 0.0
        self._insert()
        before = self._total / self._width
        if not self._shrink():
            return 0.0
        change = self._total / self._width - before
        self._begin()
        return change

    def _insert(self) -> None:
        """Add the waiting numbers to the window."""
        width, total, squares, newest = self._width, self._total, self._squares, self._rows[0]
        for value in self._waiting:
            width += 1.0
            if width > 1.0:
                deviation = value - total / (width - 1.0)
                squares += (width - 1.0) * deviation * deviation / width
            total += value
            newest.append((value, 0.0))
            if len(newest) > _BUCKETS:
                self._merge()
        self._waiting.clear()
        self._width, self._total, self._squares = width, total, squares

    def _merge(self) -> None:
        """Merge the two oldest buckets of each size with too many, from the smallest size on."""
        rows, size, i = self._rows, 1.0, 0
        while len(rows[i]) > _BUCKETS:
            (total, squares), (other_total, other_squares) = rows[i][:2]
            del rows[i][:2]
            apart = total / size - other_total / size
            if i + 1 == len(rows):
                rows.append([])
            merged = squares + other_squares + size * 0.5 * apart * apart
            rows[i + 1].append((total + other_total, merged))
            size, i = 2.0 * size, i + 1

    def _shrink(self) -> bool:
        """Drop the oldest buckets while the means differ; return whether any was dropped."""
        shrunk = False
        while self._cut():
            self._drop()
            shrunk = True
        return shrunk

    def _cut(self) -> bool:
        """Return whether the means before and after some border differ significantly."""
        width, newer_total = self._width, self._total
        older = older_total = 0.0
        newer = width
        log = math.log(2.0 * math.log(width) / self.delta)
        spread = self._squares / width
        for i in range(len(self._rows) - 1, -1, -1):
            size = float(1 << i)
            for total, _ in self._rows[i]:
                older += size
                newer -= size
                older_total += total
                newer_total -= total
                if newer < _SHORTEST:
                    return False
                if older < _SHORTEST:
                    continue
                share = 1.0 / (older - _SHORTEST + 1.0) + 1.0 / (newer - _SHORTEST + 1.0)
                chance = math.sqrt(2.0 * share * spread * log) + 2.0 / 3.0 * log * share
                if abs(older_total / older - newer_total / newer) > chance:
                    return True
        return False

    def _drop(self) -> None:
        """Drop the oldest bucket."""
        size = float(1 << (len(self._rows) - 1))
        total, squares = self._rows[-1].pop(0)
        self._width -= size
        self._total -= total
        apart = total / size - self._total / self._width
        self._squares -= squares + size * self._width * apart * apart / (size + self._width)
        while not self._rows[-1]:
            self._rows.pop()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        rows = [[list(bucket) for bucket in row] for row in self._rows]
        totals = [self._width, self._total, self._squares]
        return {"waiting": self._waiting[:], "totals": totals, "rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`; raises `StateError` for anything else."""
        try:
            rows = [[(float(total), float(squares)) for total, squares in row] for row in state["rows"]]
            width, total, squares = map(float, state["totals"])
            waiting = list(map(float, state["waiting"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state of the detector is damaged: {error!r}") from error
        self._rows, self._waiting = rows, waiting
        self._width, self._total, self._squares = width, total, squares


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
