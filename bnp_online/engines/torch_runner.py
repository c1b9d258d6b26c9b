"""Runs the steps of a torch learner on blocks of rows; on a GPU, captured in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..mixture import METRIC_EVERY
from ..values import Vector
from .base import LearnerSpec
from .cuda_graph import WARM_UPS, captured
from .torch_sample import DRAWS, NEW_WEIGHTS, STEP
from .torch_step import RowStep

#: Greatest number of rows in one transfer to the device, and of their bytes.
MOST_ROWS, MOST_BYTES = 1024, 1 << 24


class Size(NamedTuple):
    """Number of inputs with their own statistics, of positions per input, and of outputs."""

    channels: int
    positions: int
    outputs: int


class StepRunner:
    """Runs the steps of a learner of one size on blocks of rows.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    size : Size
        Size, including spare inputs and outputs.
    device, dtype
        Device and precision.
    capture : bool
        Whether the operations of a row are captured in CUDA graphs, each at its first use.
    """

    def __init__(
        self, spec: LearnerSpec, size: Size, device: str, dtype: torch.dtype, *, capture: bool
    ) -> None:
        self.size = size
        self.step = RowStep(spec, *size, device, dtype)
        self._capture = capture
        self._renews = spec.neighbours and bool(spec.hidden)
        columns = self.step.width + DRAWS + spec.replayed
        self.rows = min(max(MOST_BYTES // (8 * columns), 1), MOST_ROWS)
        self.late_rows = min(max(MOST_BYTES // (8 * len(spec.experts) * size.outputs or 1), 1), self.rows)
        self._host = torch.zeros(self.rows, columns, dtype=torch.float64, pin_memory=device == "cuda")
        exact = torch.zeros((), dtype=torch.float64, device=device)
        self._rows = exact.new_zeros(self.rows + WARM_UPS, columns)
        self._results = exact.new_zeros(self.rows + WARM_UPS, 1 + size.outputs)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._given: Tensor | None = None  # most learners need none
        self._runs: dict[str, Callable[[], None]] = {}

    def predict(self, x: Vector, rest: Vector) -> Vector:
        """Return whether a raw input has a prediction, followed by the prediction: (1 + C,).

        Parameters
        ----------
        x : (n,)
            Raw input.
        rest : (columns,)
            Further columns of the row; see `torch_sample`.
        """
        run = self._prepared(self.predict_row)
        self._upload(x[None], rest[None])
        run()
        row: Vector = self._download(1, self._results.shape[1])[0]
        return row

    def experts(self) -> Vector:
        """Return the predictions of the experts in the latest prediction, (K, C); NaN where one had none."""
        if self.step.experts is None:
            return np.empty((0, 0))
        values: Vector = self.step.experts.to("cpu", copy=True).numpy()
        return values

    def learn(
        self, x: Vector, rest: Vector, given: Vector | None = None, *, predict: bool
    ) -> tuple[int, Vector]:
        """Learn rows in order, up to the first refused row.

        Parameters
        ----------
        x : (B, n)
            Raw inputs, B ≤ `rows`.
        rest : (B, columns)
            Further columns of the rows; see `torch_sample`.
        given : (B, K, outputs in use), optional
            Earlier predictions of the experts, to judge them by; then B ≤ `late_rows`.
        predict : bool
            Whether to return the predictions.

        Returns
        -------
        int, array of shape (B, C) or (B, 0)
            Number of rows learned, and the predictions.
        """
        run = self._learning(predict=predict, given=given)
        counted = rest[:, NEW_WEIGHTS] > 0.0
        renewed = (rest[:, STEP] % METRIC_EVERY == 0.0) & self._renews
        average = self._prepared(self.average_row) if counted.any() else _nothing
        renew = self._prepared(self.renew_row) if renewed.any() else _nothing
        self._upload(x, rest)
        for counts, renews in zip(counted.tolist(), renewed.tolist(), strict=True):
            run()
            if counts:
                average()
            if renews:
                renew()
            if not self._capture and bool(self.step.halted):  # a graph's host does not wait for the value
                break
        results = self._download(len(x), self._results.shape[1] if predict else 1)
        return int(results[:, 0].sum()), results[:, 1:]

    def _learning(self, *, predict: bool, given: Vector | None) -> Callable[[], None]:
        """Return the method that learns a row, and copy predictions of the experts to the device."""
        if given is None:
            return self._prepared(self.learn_row if predict else self.learn_unpredicted_row)
        if self._given is None:
            count = self.late_rows + WARM_UPS
            self._given = self._rows.new_zeros(count, given.shape[1], self.size.outputs)
        run = self._prepared(self.learn_given_row)
        part = self._given[: len(given)]
        part[..., : given.shape[2]].copy_(torch.from_numpy(given))
        part[..., given.shape[2] :] = 0.0
        return run

    def _upload(self, x: Vector, rest: Vector) -> None:
        """Copy rows to the device and clear the refusal; the host's buffer is free after `_download`."""
        count, n = x.shape
        host = self._host.numpy()[:count]
        host[:, :n], host[:, n : self.step.width] = x, 0.0
        host[:, self.step.width :] = rest
        self._rows[:count].copy_(self._host[:count], non_blocking=True)
        self._results[:count, 0] = 0.0
        self._at.zero_()
        self.step.halted.zero_()

    def _download(self, count: int, columns: int) -> Vector:
        """Return results. Only this method makes the host wait for the device."""
        results: NDArray[np.float64] = self._results[:count, :columns].to("cpu", copy=True).numpy()
        return results

    def _prepared(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return a method. With `capture`, the first use captures it in a CUDA graph."""
        if not self._capture:
            return function
        name = function.__name__
        if name not in self._runs:
            self.step.halted.fill_(True)  # the warm-up runs change nothing
            self._at.zero_()
            self._runs[name] = captured(function)
        return self._runs[name]

    @torch.no_grad()
    def predict_row(self) -> None:
        """Predict the first row."""
        self._results[0].copy_(self.step.predict(self._rows[0]))

    def learn_row(self) -> None:
        """Predict and learn the next row."""
        self._learn(predict=True)

    def learn_unpredicted_row(self) -> None:
        """Learn the next row."""
        self._learn(predict=False)

    def learn_given_row(self) -> None:
        """Predict and learn the next row, and judge the experts by their earlier predictions."""
        self._learn(predict=True, given=self._given)

    @torch.no_grad()
    def _learn(self, *, predict: bool, given: Tensor | None = None) -> None:
        row = self._rows.index_select(0, self._at)[0]
        if given is not None:
            given = given.index_select(0, self._at)[0]
        result = self.step.learn(row, predict=predict, given=given)
        self._results[:, : len(result)].index_copy_(0, self._at, result[None])
        self._at.add_(1)

    @torch.no_grad()
    def average_row(self) -> None:
        """Update the running means of the weights, after `learn_row`.

        The update has its own graph: few rows need it, and it reads all weights.
        """
        self.step.average(self._rows[self._at - 1][0])

    @torch.no_grad()
    def renew_row(self) -> None:
        """Renew the metric of the neighbours, after `learn_row`."""
        self.step.renew_metric()


def _nothing() -> None:
    """Do nothing."""
