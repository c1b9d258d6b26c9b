"""Undo of samples: copies of the rows that they change, at a cost that does not depend on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..mixture import draw
from .constants import CANDIDATES
from .names import find, link_all
from .state import (
    BY_PAIR,
    BY_ROW,
    FRESH,
    KNOWN,
    MAX_VALUES,
    OF_ROWS,
    PAIR_NUMBER,
    ROWS,
    SAMPLES,
    SEED,
    Items,
    State,
)

#: Arrays that a step changes in place, and whose size does not depend on the values and pairs.
_SMALL = (
    "scalars",
    "bias",
    "bias_scales",
    "number_weights",
    "number_scales",
    "shares",
    "numbers",
    "totals",
    "target",
    "evidence",
    "hedge",
    "stack",
)


class _Rows:
    """Copies of rows of arrays; a row is copied once."""

    def __init__(self, state: State, names: Sequence[str]) -> None:
        self._names = names
        self._arrays: list[NDArray[Any]] = [getattr(state, name) for name in names]
        self._kept = np.zeros(len(self._arrays[0]), np.bool_)
        self._copies: list[tuple[NDArray[np.int64], list[NDArray[Any]]]] = []

    def keep(self, s: State, rows: NDArray[np.int64]) -> None:
        """Copy rows, unless larger arrays have taken the place of these."""
        if getattr(s, self._names[0]) is self._arrays[0]:
            new = np.unique(rows[~self._kept[rows]])
            self._kept[new] = True
            self._copies.append((new, [array[new] for array in self._arrays]))

    def restore(self) -> None:
        """Write the copies back."""
        for rows, copies in self._copies:
            for array, values in zip(self._arrays, copies, strict=True):
                array[rows] = values


class Undo:
    """Copies of what samples change in a state, since the object was made.

    Each row is copied once, before its first change. Where a larger array takes the place of one, the rows of
    the former need no further copies. So the copies are never larger than the state.

    Parameters
    ----------
    state : State
        The state to return to.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._small = {name: getattr(state, name).copy() for name in _SMALL}
        self._values = [_Rows(state, BY_ROW), _Rows(state, OF_ROWS)]
        self._pairs = _Rows(state, BY_PAIR)

    def before_step(self, s: State) -> None:
        """Copy the rows that the next `step.learn` changes: after `step.front` and growth of the arrays."""
        self._keep(s, s.rows[: int(s.scalars[KNOWN])])
        self._keep_new(s, int(s.scalars[FRESH]), int(s.scalars[SAMPLES]))
        self._pairs.keep(s, s.pair_rows[: int(s.scalars[PAIR_NUMBER])])

    def before_entering(self, s: State, items: Items) -> None:
        """Copy the rows that `step.enter` changes."""
        begins = [0, *items.ends[:-1].tolist()]
        found = [find(s, items.text, *each) for each in zip(begins, items.ends, items.fields, strict=True)]
        self._keep(s, np.array([row for row in found if row >= 0], np.int64))
        self._keep_new(s, len(found), int(s.scalars[SAMPLES]) + 1)

    def _keep(self, s: State, rows: NDArray[np.int64]) -> None:
        for each in self._values:
            each.keep(s, rows)

    def _keep_new(self, s: State, count: int, now: int) -> None:
        """Copy the rows that `count` new values may take at step `now`: all candidates."""
        most = int(s.config[MAX_VALUES])
        if int(s.scalars[ROWS]) + count > most:
            drawn = [draw(int(s.config[SEED]), now, i, most) for i in range(count * CANDIDATES)]
            rows = np.array(drawn, np.int64)
            self._keep(s, rows[rows < len(s.scales)])

    def undo(self, s: State) -> State:
        """Return the state as it was, given the present one."""
        before, last = self._state, int(s.scalars[ROWS])  # both may have the same scalars
        for name, value in self._small.items():
            getattr(before, name)[...] = value
        for each in (*self._values, self._pairs):
            each.restore()
        for name in ("generation", *OF_ROWS):  # all numbers of a row without a value are 0
            getattr(before, name)[int(before.scalars[ROWS]) : last] = 0
        before.slots.fill(-1)
        link_all(before)
        return before
