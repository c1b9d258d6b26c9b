"""Window of the latest predictions."""

from __future__ import annotations

import itertools
import operator
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..values import Label, Vector

Scored: TypeAlias = tuple[Any, Any, tuple[Label, ...], list[float]]
"""Target, prediction, the labels with a probability, and their probabilities."""


class Window:
    """The latest predictions with their targets. It takes a twentieth of the memory of dicts.

    A prediction has no object of its own, which garbage collections would visit.

    Parameters
    ----------
    size : int
        Number of predictions.

    Examples
    --------
    >>> window = Window(2)
    >>> for y in ("cat", "dog", "cat"):
    ...     window.add(y, "cat", {"cat": 0.75, "dog": 0.25})
    >>> len(window), list(window)[0]
    (2, ('dog', 'cat', ('cat', 'dog'), [0.75, 0.25]))
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # Target, prediction and labels of one prediction after the other; equal labels in a row are shared.
        self._entries: deque[Any] = deque(maxlen=3 * size)
        self._probabilities = array("d")
        self._start = 0  # those before have left the window

    def __len__(self) -> int:
        return len(self._entries) // 3

    def __iter__(self) -> Iterator[Scored]:
        probabilities, start = self._probabilities[self._start :].tolist(), 0
        for y, prediction, labels in zip(*[iter(self._entries)] * 3, strict=True):
            stop = start + len(labels)
            yield y, prediction, labels, probabilities[start:stop]
            start = stop

    @property
    def latest(self) -> tuple[Any, Any] | None:
        """Latest target and its prediction; None before the first."""
        return (self._entries[-3], self._entries[-2]) if self._entries else None

    def add(self, y: Any, prediction: Any, probabilities: Mapping[Any, float]) -> None:
        """Add a prediction. The oldest one leaves a window that is full."""
        if self.size == 0:
            return
        entries, labels, values = self._entries, tuple(probabilities), array("d", probabilities.values())
        if entries and _same(labels, shared := entries[-1]):
            labels = shared
        if len(self) == self.size:
            self._start += len(entries[2])
            if self._start > len(self._probabilities) // 5:
                del self._probabilities[: self._start]
                self._start = 0
        entries.extend((y, prediction, labels))
        self._probabilities.extend(values)

    def add_many(
        self, targets: Sequence[Any], predictions: Sequence[Any], labels: tuple[Label, ...], values: Vector
    ) -> None:
        """Add predictions that have probabilities of the same labels, as `add` in a loop.

        Parameters
        ----------
        targets, predictions : sequences of length N
            Targets, and their predictions.
        labels : tuple
            Labels, in the order of the columns of `values`.
        values : array of shape (N, labels)
            Probabilities.
        """
        count = min(len(targets), self.size)
        if count == 0:
            return
        entries, skipped = self._entries, len(targets) - count
        if entries and _same(labels, shared := entries[-1]):
            labels = shared
        leaving = len(self) + count - self.size
        if leaving > 0:
            self._start += sum(map(len, itertools.islice(entries, 2, 3 * leaving, 3)))
        columns = targets[skipped:], predictions[skipped:], itertools.repeat(labels, count)
        entries.extend(itertools.chain.from_iterable(zip(*columns, strict=True)))
        self._probabilities.frombytes(np.ascontiguousarray(values[skipped:]).tobytes())
        if self._start > len(self._probabilities) // 5:
            del self._probabilities[: self._start]
            self._start = 0

    def load(self, scored: Iterable[tuple[Any, Any, Sequence[Label], Iterable[float]]]) -> None:
        """Replace the content by that of a window of this size, as iteration returns it.

        Raises
        ------
        ValueError
            If there are more predictions, or not as many probabilities as labels.
        """
        self._entries.clear()
        self._probabilities, self._start = array("d"), 0
        latest: Sequence[Label] = ()
        shared: tuple[Label, ...] = ()
        for y, prediction, labels, probabilities in scored:
            if labels != latest or not all(type(label) is str for label in shared):
                latest = labels
                shared = shared if _same(shared, tuple(labels)) else tuple(labels)
            self._entries.extend((y, prediction, shared))
            self._probabilities.extend(probabilities)
        if sum(map(len, itertools.islice(self._entries, 2, None, 3))) != len(self._probabilities):
            raise ValueError("the window has another size")

    def copy(self) -> Window:
        """Return a copy."""
        twin = Window(self.size)
        twin._entries, twin._probabilities = self._entries.copy(), self._probabilities[self._start :]
        return twin


def _same(labels: tuple[Label, ...], others: tuple[Label, ...]) -> bool:
    """Return whether labels are equal and of equal types: ``True == 1``."""
    if len(labels) != len(others):
        return False
    if all(map(operator.is_, labels, others)):  # most often
        return True
    return labels == others and [*map(type, labels)] == [*map(type, others)]
