"""Moments that a single absurd value cannot ruin, from their definition (algorithm.md §6, "Glitches").

The specification leaves these points open:

- The first 20 values of a column are never clipped one by one. The 20th is clipped together with them, to
  median ± 15 MAD. From the 21st value on, a value is clipped to mean ± max(10 sd, twice the largest
  deviation), with the mean and sd from before the value.
- A deviation is measured from the mean before the value. A deviation is admitted also while sd = 0.
- At the 20th value, the moments start again: from the samples before the column joined, as zeros, they count
  the 20 clipped values in order. Missing values in between are not counted again. Starting with 20 equal
  values, the variance is therefore exactly 0. The number of samples goes on.
- The largest deviation starts as that of the 20 clipped values from the mean so computed.
- A column that joins later has its own number of values. Below 20 of them, nothing is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.support.reference_learner import Array, Cumulative

#: Number of values that are not clipped one by one.
FIRST = 20


def without_outliers(values: Sequence[float]) -> Array:
    """Clip values to median ± 15 MAD; unclipped where MAD = 0."""
    array = np.array(values)
    median = np.median(array)
    spread = np.median(np.abs(array - median))
    if spread == 0.0:
        return array
    return np.asarray(np.clip(array, median - 15.0 * spread, median + 15.0 * spread))


class Admission:
    """Moments of columns; a value is clipped before they count it, except in the columns that are `flags`.

    Attributes
    ----------
    moments : Cumulative
        Mean, variance, and number of samples, common to all columns.
    joined : list of int
        Number of samples before each column joined.
    first : list of list of float
        The first values of each column, at most 20; once there are 20, clipped.
    largest : array of shape (n,)
        Largest deviation admitted; 0 before the 20th value.
    """

    def __init__(self, flags: Sequence[bool]) -> None:
        self.moments = Cumulative(np.zeros(0), np.zeros(0))
        self.flags: list[bool] = []
        self.joined: list[int] = []
        self.first: list[list[float]] = []
        self.largest = np.zeros(0)
        self.widen(flags)

    def widen(self, flags: Sequence[bool]) -> None:
        """Append columns, which were 0 in the past."""
        self.moments.widen(len(flags))
        self.flags += flags
        self.joined += [self.moments.n] * len(flags)
        self.first += [[] for _ in flags]
        self.largest = np.append(self.largest, np.zeros(len(flags)))

    def admitted(self, x: Array) -> Array:
        """Return the values as they would be counted; NaN marks a missing value."""
        return np.array([self._admitted(j, float(value)) for j, value in enumerate(x)])

    def _admitted(self, j: int, value: float) -> float:
        seen = len(self.first[j])
        if math.isnan(value) or self.flags[j] or seen < FIRST - 1:
            return value
        if seen == FIRST - 1:
            return float(without_outliers([*self.first[j], value])[-1])
        mean, sd = self.moments.mean[j], math.sqrt(self.moments.var[j])
        if sd == 0.0:
            return value
        bound = max(10.0 * sd, 2.0 * self.largest[j])
        return float(np.clip(value, mean - bound, mean + bound))

    def count(self, x: Array) -> Array:
        """Count values, and return them as counted."""
        values = self.admitted(x)
        before = self.moments.mean
        self.moments.update(np.where(np.isnan(values), before, values))
        for j, value in enumerate(values):
            if math.isnan(value) or self.flags[j]:
                continue
            if len(self.first[j]) == FIRST:
                self.largest[j] = max(self.largest[j], abs(value - before[j]))
            else:
                self.first[j].append(float(x[j]))
                if len(self.first[j]) == FIRST:
                    self._count_again(j)
        return values

    def _count_again(self, j: int) -> None:
        clipped = without_outliers(self.first[j])
        again = Cumulative(np.zeros(1), np.zeros(1), self.joined[j])
        for value in clipped:
            again.update(np.array([value]))
        self.first[j] = clipped.tolist()
        self.moments.mean[j], self.moments.var[j] = again.mean[0], again.var[0]
        self.largest[j] = np.abs(clipped - again.mean[0]).max()
