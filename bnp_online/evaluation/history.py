"""History of the prequential scores of a model over its steps, of bounded size."""

from __future__ import annotations

import copy
import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..engines.base import Task
from ..errors import StateError
from ..intervals import SCORED_LEVEL
from ..values import Vector
from .baselines import Scored

#: Steps between two points, and steps after which samples become points and old points are merged.
EVERY, MERGE_EVERY = 10, 640
#: A point at a multiple of ``EVERY·2^k`` stays for ``DENSE·2^k`` steps at least.
DENSE = 1280
#: Number of drifts that are retained.
DRIFTS = 256
#: Limit of an error: its sums stay finite.
_GREATEST = 1e150
#: Score or loss of a prediction that was not scored; all others are positive.
_MISSING = -1.0
#: Width and coverage of a sample without an interval.
_NO_INTERVAL = (_MISSING, 0.0)
#: Columns of a point: step and time; number of predictions, sums of their scores and losses; number of
#: predictions of the baselines, and sums of their three scores.
_COLUMNS = 9
#: Further columns with intervals: their number, how many contained the target, and the sum of their widths.
_INTERVALS = 3
_NAMES = {
    "classification": ("Accuracy", "LogLoss", "majority"),
    "regression": ("MAE", "RMSE", "mean"),
}


class ScoreHistory:
    """Scores over the steps: points, each with the sums of the samples since the point before.

    A point ends at each multiple of ten steps. Older points are merged in pairs: a point at a multiple of
    ``10·2^k`` stays for ``1280·2^k`` steps at least. So the history is dense for the latest steps, and
    sparser by powers of two before. After n steps there are at most ``64·log2(n/640) + 256`` points of 72
    bytes, and 640 samples of 48 bytes that are not in a point yet: 98 kB after a million steps, and 0.3 MB
    after 2^63. With intervals, a point has 96 bytes, and a sample 64.

    The history depends on the samples and their order alone, not on how many are added together.

    Parameters
    ----------
    task : {"classification", "regression"}
        Kind of the predictions.
    intervals : bool
        Whether the samples have predictive intervals.

    Attributes
    ----------
    drifts : deque of (int, float)
        Step and time of the latest drifts, at most 256.

    Examples
    --------
    >>> history = ScoreHistory("classification")
    >>> for step in range(1, 26):
    ...     history.add(step, 0.5 * step, step % 2, 0.7, None)
    >>> report = history.report()
    >>> report["step"], report["n"], report["scores"]["Accuracy"]
    ([10, 20, 25], [10, 10, 5], [0.5, 0.5, 0.6])
    """

    def __init__(self, task: Task, *, intervals: bool = False) -> None:
        self.task = task
        self._width = _COLUMNS + _INTERVALS * intervals
        self.drifts: deque[tuple[int, float]] = deque(maxlen=DRIFTS)
        self._step = 0
        self._rows = array("d")  # the first row is the step before the first sample, without scores
        # Samples that are not in a point yet; the baselines have three scores each.
        self._times, self._scores = array("d"), array("d")
        self._losses, self._baselines = array("d"), array("d")
        self._intervals = array("d")  # of each sample its width, and whether it contained the target

    def __len__(self) -> int:
        return len(self._points())

    def add(
        self,
        step: int,
        time: float,
        score: float,
        loss: float | None,
        baselines: Scored | None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Add the scores of a sample.

        Parameters
        ----------
        step : int
            Step of the model with this sample.
        time : float
            Time in seconds since 1970.
        score : float
            Whether the prediction was right, or the absolute error.
        loss : float or None
            Log loss in nats, or squared error; None if the prediction was not scored.
        baselines : tuple or None
            Scores of `Baselines.update`; None if they were not scored.
        interval : tuple of float, optional
            Width of the interval, and 1.0 if it contained the target, else 0.0; NaN and None without one.
        """
        if not self._rows:
            self._begin(step, time)
        self._times.append(time)
        self._scores.append(score)
        self._losses.append(_MISSING if loss is None else loss)
        self._baselines.extend((_MISSING, 0.0, 0.0) if baselines is None else baselines)
        if self._width > _COLUMNS:
            self._intervals.extend(_NO_INTERVAL if interval is None else interval)
        self._step = step
        if step % MERGE_EVERY == 0:
            self._merge()

    def add_many(
        self,
        step: int,
        times: Sequence[float],
        scores: Sequence[float],
        losses: Sequence[float],
        baselines: Sequence[float],
        intervals: Vector | None = None,
    ) -> None:
        """Add the scores of consecutive samples, as `add` in a loop.

        Parameters
        ----------
        step : int
            Step of the model with the first sample.
        times, scores, losses : sequences of float
            Time, score and loss of each sample.
        baselines : sequence of float
            Scores of `Baselines.update_many`; those of the first sample may be missing.
        intervals : array of shape (N, 2), optional
            As for `add`, of each sample.
        """
        start, count = 0, len(times)
        if count and not self._rows:
            self._begin(step, times[0])
        if len(baselines) < 3 * count:
            baselines = [_MISSING, 0.0, 0.0, *baselines]
        if self._width > _COLUMNS and intervals is None:
            intervals = np.full((count, 2), np.nan)
        while start < count:
            stop = min(start + MERGE_EVERY - self._step % MERGE_EVERY, count)
            self._times.extend(times[start:stop])
            self._scores.extend(scores[start:stop])
            self._losses.extend(losses[start:stop])
            self._baselines.extend(baselines[3 * start : 3 * stop])
            if self._width > _COLUMNS and intervals is not None:
                self._intervals.frombytes(np.ascontiguousarray(intervals[start:stop]).tobytes())
            self._step += stop - start
            if self._step % MERGE_EVERY == 0:
                self._merge()
            start = stop

    def _begin(self, step: int, time: float) -> None:
        self._step = step - 1
        self._rows.extend((step - 1, time, *[0.0] * (self._width - 2)))

    def _recent(self) -> Vector:
        """Return the points of the samples that are not in one yet; the last one may go on."""
        count = len(self._times)
        first = self._step - count  # the step before them
        lead = first % EVERY
        size = -(-(lead + count) // EVERY)
        sums, inside = np.zeros((size * EVERY, self._width - 2)), slice(lead, lead + count)
        losses, plain = np.array(self._losses), np.array(self._baselines).reshape(-1, 3)
        scored, known = losses >= 0.0, plain[:, 0] >= 0.0
        sums[inside, 0], sums[inside, 3] = scored, known
        sums[inside, 1], sums[inside, 2] = np.where(scored, self._scores, 0.0), np.where(scored, losses, 0.0)
        sums[inside, 4:7] = np.where(known[:, None], plain, 0.0)
        if self._width > _COLUMNS:
            widths, covered = np.array(self._intervals).reshape(-1, 2).T
            sums[inside, 7] = exists = widths >= 0.0
            sums[inside, 8], sums[inside, 9] = np.where(exists, covered, 0.0), np.where(exists, widths, 0.0)
        ends = np.minimum(first - lead + EVERY * np.arange(1, size + 1), self._step)
        points = np.empty((size, self._width))
        points[:, 0], points[:, 1] = ends, np.array(self._times)[ends - first - 1]
        points[:, 2:] = np.minimum(sums.reshape(size, EVERY, self._width - 2).sum(axis=1), _GREATEST)
        return points

    def _merge(self) -> None:
        """Make points of the samples, and merge old points; see the class."""
        rows = np.concatenate((np.frombuffer(self._rows).reshape(-1, self._width), self._recent()))
        for each in self._samples:
            del each[:]
        multiples = rows[:, 0].astype(np.int64) // EVERY
        stays = self._step - rows[:, 0] <= DENSE * (multiples & -multiples)
        stays[0] = True
        ends = np.flatnonzero(stays)
        merged = rows[ends]
        starts = np.concatenate(([0], ends[:-1] + 1))
        merged[:, 2:] = np.add.reduceat(rows[:, 2:], starts)
        self._rows = array("d", merged.tobytes())

    @property
    def _samples(self) -> tuple[array[float], ...]:
        """Columns of the samples that are not in a point yet."""
        return self._times, self._scores, self._losses, self._baselines, self._intervals

    def _points(self) -> Vector:
        """Return the points with their columns, also the last one, which may go on."""
        rows: Vector = np.concatenate((np.array(self._rows).reshape(-1, self._width)[1:], self._recent()))
        return rows

    def report(self, most: int | None = None) -> dict[str, Any]:
        """Return the points as lists, oldest first.

        Parameters
        ----------
        most : int, optional
            Greatest number of points: neighbours are merged.

        Returns
        -------
        dict
            ``start``, the step before the first point; ``step``, ``time`` and ``n``, the number of
            predictions since the point before; ``scores`` and ``baselines``, with the metrics over these by
            name; ``intervals``, with the ``level``, and the number ``n``, the ``coverage`` and the mean
            ``width`` of the intervals, or None. A score over no predictions is None.
        """
        rows = self._points()
        if most is not None and len(rows) > most:
            rows = _merged(rows, self._start, most)
        score, loss, first = _NAMES[self.task]
        n, plain = rows[:, 2], rows[:, 5]
        squared = self.task == "regression"
        return {
            "start": self._start,
            "step": rows[:, 0].astype(np.int64).tolist(),
            "time": rows[:, 1].tolist(),
            "n": n.astype(np.int64).tolist(),
            "scores": {score: _means(rows[:, 3], n), loss: _means(rows[:, 4], n, root=squared)},
            "baselines": {
                first: {score: _means(rows[:, 6], plain), loss: _means(rows[:, 8], plain, root=squared)},
                "last": {score: _means(rows[:, 7], plain)},
            },
            "intervals": self._intervals_of(rows),
        }

    def _intervals_of(self, rows: Vector) -> dict[str, Any] | None:
        """Return the intervals of points, as lists."""
        if self._width == _COLUMNS:
            return None
        n = rows[:, 9]
        coverage, width = _means(rows[:, 10], n), _means(rows[:, 11], n)
        return {"level": SCORED_LEVEL, "n": n.astype(np.int64).tolist(), "coverage": coverage, "width": width}

    def latest_intervals(self, least: float) -> dict[str, Any] | None:
        """Return number, coverage and mean width over the latest points with at least that many intervals.

        None if the samples have no intervals.
        """
        if self._width == _COLUMNS:
            return None
        rows = self._points()
        points = int(np.searchsorted(np.cumsum(rows[::-1, 9]), least)) + 1
        n, covered, widths = rows[max(len(rows) - points, 0) :, 9:].sum(axis=0).tolist()
        return {
            "n": int(n),
            "coverage": covered / n if n else None,
            "width": widths / n if n else None,
        }

    def latest(self, least: int) -> dict[str, float | None]:
        """Return the metrics by name over the latest points with at least that many predictions."""
        rows = self._points()
        points = int(np.searchsorted(np.cumsum(rows[::-1, 2]), least)) + 1
        total, score, loss = rows[max(len(rows) - points, 0) :, 2:5].sum(axis=0).tolist()
        first, second, _ = _NAMES[self.task]
        if not total:
            return {first: None, second: None}
        mean = loss / total
        return {first: score / total, second: math.sqrt(mean) if self.task == "regression" else mean}

    @property
    def _start(self) -> int:
        return int(self._rows[0]) if self._rows else 0

    def copy(self) -> ScoreHistory:
        """Return a copy."""
        twin = copy.copy(self)
        twin.drifts, twin._rows = self.drifts.copy(), self._rows[:]
        twin._times, twin._scores = self._times[:], self._scores[:]
        twin._losses, twin._baselines = self._losses[:], self._baselines[:]
        twin._intervals = self._intervals[:]
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {
            "every": EVERY,
            "points": np.array(self._rows).reshape(-1, self._width).tolist(),
            "latest": [[_writable(each) for each in some] for some in self._samples],
            "step": self._step,
            "drifts": [[*each] for each in self.drifts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If the points are of another form.
        """
        lengths = {len(row) for row in state["points"]}
        if state.get("every") != EVERY or not lengths <= {_COLUMNS, self._width}:
            raise StateError("the history of the scores has another form")
        # An earlier version had no intervals.
        more = [0.0] * (self._width - min(lengths, default=self._width))
        self._rows = array("d", [float(each) for row in state["points"] for each in (*row, *more)])
        self._times, self._scores, self._losses, self._baselines, *intervals = (
            array("d", map(float, some)) for some in state["latest"]
        )
        missing = array("d", _NO_INTERVAL * len(self._times) if self._width > _COLUMNS else ())
        self._intervals = intervals[0] if intervals and len(intervals[0]) == len(missing) else missing
        self._step = state["step"]
        self.drifts.clear()
        self.drifts.extend((step, float(time)) for step, time in state["drifts"])


def _writable(value: float) -> float:
    """Return a number of a sample within the limit; JSON has no NaN."""
    return _MISSING if math.isnan(value) else min(value, _GREATEST)


def _merged(rows: Vector, start: int, most: int) -> Vector:
    """Merge neighbours, so that the points have about equal distances."""
    steps = rows[:, 0]
    wanted = start + (steps[-1] - start) * np.arange(1, most + 1) / most
    ends = np.unique(np.searchsorted(steps, wanted).clip(max=len(rows) - 1))
    merged: Vector = rows[ends]
    merged[:, 2:] = np.add.reduceat(rows[:, 2:], np.concatenate(([0], ends[:-1] + 1)))
    return merged


def _means(sums: Vector, counts: Vector, *, root: bool = False) -> list[float | None]:
    means = [
        total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)
    ]
    return [None if each is None else math.sqrt(each) for each in means] if root else means
