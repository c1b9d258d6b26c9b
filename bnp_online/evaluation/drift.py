"""Detectors of drift: they find that the mean of a stream of numbers, such as losses, has changed.

They are River's `ADWIN` and `PageHinkley` once more, number by number, and the tests hold them to those. They
are here because a learner that is kept must be found again as it was: River's `ADWIN` keeps its window in
compiled code, where it cannot be read as numbers, and importing ``river.drift`` takes longer than importing
torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import ConfigurationError, StateError

#: Updates from one search for a change to the next.
_CLOCK = 32
#: Buckets of a size before two of them are merged.
_BUCKETS = 5
#: Shortest part of the window that is compared.
_SHORTEST = 5


class Detector(Protocol):
    """Sees numbers one at a time."""

    def update(self, value: float) -> float:
        """Take a number in; return by how much the mean has changed, 0 if no change was found."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `update` changes, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""


class ADWIN:
    """Adaptive windowing: a window of the latest numbers, as long as their mean does not change.

    The window is kept as sums and sums of squared deviations of buckets, at most five of each power of two.
    Every 32 numbers it is cut wherever two buckets meet; where the means of the parts differ by more than
    chance allows, there was a change, and the window begins anew.

    Parameters
    ----------
    delta : float
        How probable it may be that chance alone makes two parts differ so much, in (0, 1).

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
        self._waiting: list[float] = []  # they come into the window together: half the time
        self._width = self._total = self._squares = 0.0
        #: By the logarithm of their size, the buckets from the oldest to the newest: sum, squared deviations.
        self._rows: list[list[tuple[float, float]]] = [[]]

    def update(self, value: float) -> float:
        """Take a number in; return by how much the mean has changed, 0 if no change was found.

        Parameters
        ----------
        value : float
            Finite. Chance is bounded for numbers in [0, 1]; others do as well, if they are not much larger.
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
        """Take what waits into the window."""
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
        """Make one bucket of the two oldest of a size, from the smallest on, until no size has too many."""
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
        """Drop the oldest buckets while the window can be cut; return whether any was dropped."""
        shrunk = False
        while self._cut():
            self._drop()
            shrunk = True
        return shrunk

    def _cut(self) -> bool:
        """Return whether somewhere the mean before differs from the mean after by more than chance allows."""
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
        """Return everything that `update` changes, as JSON."""
        rows = [[list(bucket) for bucket in row] for row in self._rows]
        totals = [self._width, self._total, self._squares]
        return {"waiting": self._waiting[:], "totals": totals, "rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; raises `StateError` if it is something else."""
        try:
            rows = [[(float(total), float(squares)) for total, squares in row] for row in state["rows"]]
            width, total, squares = map(float, state["totals"])
            waiting = list(map(float, state["waiting"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state of the detector is damaged: {error!r}") from error
        self._rows, self._waiting = rows, waiting
        self._width, self._total, self._squares = width, total, squares


class PageHinkley:
    """The Page-Hinkley test for a mean that rises: how far a sum of deviations is above its lowest point.

    Parameters
    ----------
    delta : float
        How much of a deviation is tolerated, ≥ 0.
    threshold : float
        From where on it is a change, > 0.

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

    #: Numbers before which no change is found, and what a sum keeps of itself at each.
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
        """Take a number in; return by how much it is above the mean if a rise was found, else 0."""
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
        """Return everything that `update` changes, as JSON."""
        lowest = None if self._n == 0 else self._lowest
        return {"n": self._n, "mean": self._mean, "sum": self._sum, "lowest": lowest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; raises `StateError` if it is something else."""
        try:
            n, mean, total = int(state["n"]), float(state["mean"]), float(state["sum"])
            lowest = math.inf if state["lowest"] is None else float(state["lowest"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state of the detector is damaged: {error!r}") from error
        self._n, self._mean, self._sum, self._lowest = n, mean, total, lowest
