"""Exact nearest neighbours for River's KNN, over one array instead of the dicts of `LazySearch`."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from river import neighbors
from river.neighbors.base import BaseNN, DistanceFunc, FunctionWrapper

Item: TypeAlias = tuple[dict[str, float], Any]


class RingSearch(BaseNN):
    """The neighbours and distances of River's `LazySearch`, in the same order, faster on many features.

    Parameters
    ----------
    window_size : int
        Number of latest samples to search.
    dist_func : callable
        Distance that River's estimators set. Only their default, the Euclidean distance, is possible.
    """

    def __init__(
        self, window_size: int = 1000, dist_func: DistanceFunc | FunctionWrapper | None = None
    ) -> None:
        super().__init__(dist_func or neighbors.LazySearch().dist_func)
        self.window_size = window_size
        self._columns: dict[str, int] = {}
        self._rows = np.zeros((window_size, 0))
        self._squares = np.zeros(window_size)  # squared norm of each row
        self._items: list[Item] = []
        self._appended = 0

    def append(self, item: Item, **kwargs: Any) -> None:
        """Store a sample (x, y) in place of the oldest one."""
        vector = self._vector(item[0])
        place = self._appended % self.window_size
        self._items[place : place + 1] = [item]
        self._rows[place] = vector
        self._squares[place] = vector @ vector
        self._appended += 1

    def search(self, item: Item, n_neighbors: int, **kwargs: Any) -> tuple[list[Item], list[float]]:
        """Return the nearest samples, nearest first and the older first of equals, and their distances."""
        if not self._items:
            return [], []
        vector = self._vector(item[0])
        places = self._candidates(vector, min(n_neighbors, len(self._items)))
        distances = np.sqrt(np.square(self._rows[places] - vector).sum(axis=1))
        ages = (places - self._appended) % self.window_size  # 0 is the oldest
        nearest = np.lexsort((ages, distances))[:n_neighbors]
        return [self._items[place] for place in places[nearest]], distances[nearest].tolist()

    def refresh_targets(self) -> set[Any]:
        """Return the stored targets."""
        return {y for _, y in self._items if y is not None}

    def _vector(self, x: dict[str, float]) -> np.ndarray:
        for name in x.keys() - self._columns.keys():
            self._columns[name] = len(self._columns)
        missing = len(self._columns) - self._rows.shape[1]
        if missing:
            self._rows = np.pad(self._rows, ((0, 0), (0, missing)))
        return np.array([x.get(name, 0.0) for name in self._columns])

    def _candidates(self, vector: np.ndarray, k: int) -> np.ndarray:
        """Return the rows of the k nearest, and of all that rounding may have put behind them.

        ``|r − v|² = |r|² − 2 r·v + |v|²`` reads the window once; it cancels, so the distances that count are
        computed anew from the difference.
        """
        n = len(self._items)
        squares = self._squares[:n]
        relative = squares - 2.0 * (self._rows[:n] @ vector)
        slack = 1e-9 * (squares.max() + vector @ vector)
        return np.flatnonzero(relative <= np.partition(relative, k - 1)[k - 1] + slack)
