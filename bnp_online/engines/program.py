"""The step of a learner of one size, captured, with a stage for the rows on their way in and out."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..encoding import Vector
from .base import LearnerSpec
from .cuda_graph import WARM_UPS, captured
from .mlp_ensemble import BatchedCopies
from .module_member import ModularCopy
from .torch_step import DRAWS, NEW_WEIGHTS, Copies, RowStep

#: Most rows that are staged at a time, and most bytes that they may take.
MOST_ROWS, MOST_BYTES = 1024, 1 << 24


class Size(NamedTuple):
    """For how many inputs with statistics of their own, positions that share each, and outputs."""

    channels: int
    positions: int
    outputs: int


class Tenant:
    """A learner's numbers while it is not seated in a `Program`; empty while it is."""

    def __init__(self, numbers: dict[str, Tensor]) -> None:
        self.numbers = numbers


class Program:
    """Tensors at fixed addresses, and what is done with them for a row: predicting, and learning.

    Learners of one size take turns in a program: a learner and its forks share one, so that a fork costs a
    copy of its numbers and no capture. Whoever is *seated* has its numbers in the program's tensors; the
    others keep theirs themselves.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    size : Size
        For what there is room.
    replay : int
        How many remembered samples are replayed after a row.
    device, dtype
        Of the tensors. On ``"cpu"`` nothing is captured: the same functions are called.
    """

    def __init__(self, spec: LearnerSpec, size: Size, replay: int, device: str, dtype: torch.dtype) -> None:
        self.size = size
        self.copies: Copies
        if spec.network == "mlp":
            self.copies = BatchedCopies(spec, size.channels, size.outputs, device, dtype)
        else:
            self.copies = ModularCopy(spec, size.outputs, device, dtype)
        self.step = RowStep(spec, self.copies, size.channels, size.positions, device, dtype)
        self._device = device
        columns = self.step.width + DRAWS + replay
        self.rows = min(max(MOST_BYTES // (8 * columns), 1), MOST_ROWS)
        self._host = torch.zeros(self.rows, columns, dtype=torch.float64, pin_memory=device == "cuda")
        exact = torch.zeros((), dtype=torch.float64, device=device)
        self._staged = exact.new_zeros(self.rows + WARM_UPS, columns)
        self._results = exact.new_zeros(self.rows + WARM_UPS, 1 + size.outputs)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._runs: dict[str, Callable[[], None]] = {}
        self._seated: weakref.ref[Tenant] | None = None

    def seat(self, tenant: Tenant) -> None:
        """Put a learner's numbers into the tensors; those of the one seated before go back to it."""
        before = None if self._seated is None else self._seated()
        if before is tenant:
            return
        tensors = self.step.tensors
        if before is not None:
            before.numbers = {name: tensor.clone() for name, tensor in tensors.items()}
        for name, value in tenant.numbers.items():
            tensors[name].copy_(value)
        tenant.numbers = {}
        self._seated = weakref.ref(tenant)

    def predict(self, x: Vector) -> Vector:
        """Return whether there is a prediction for a raw input, (n,), and it: (1 + C,)."""
        run = self._recorded("predict", self.predict_row)
        self._upload(x[None])
        run()
        row: Vector = self._download(1, self._results.shape[1])[0]
        return row

    def learn(self, x: Vector, rest: Vector, *, predict: bool) -> tuple[int, Vector]:
        """Learn rows in order, up to the first that is refused.

        Parameters
        ----------
        x : (B, n)
            Raw inputs, B ≤ `rows`.
        rest : (B, columns)
            What is staged beside them; see `staged`.
        predict : bool
            Whether to return what was predicted.

        Returns
        -------
        int, array of shape (B, C) or (B, 0)
            How many were learned, and the predictions.
        """
        run = self._recorded("learn", self.learn_row)
        counted = rest[:, NEW_WEIGHTS] > 0.0
        average = self._recorded("average", self.average_row) if counted.any() else None
        self._upload(x, rest)
        for counts in counted.tolist():
            run()
            if average is not None and counts:
                average()
        results = self._download(len(x), self._results.shape[1] if predict else 1)
        return int(results[:, 0].sum()), results[:, 1:]

    def _upload(self, x: Vector, rest: Vector | None = None) -> None:
        """Stage rows, and forget that any was refused; the host's buffer is free again after `_download`."""
        count, n = x.shape
        host = self._host.numpy()[:count]
        host[:, :n], host[:, n : self.step.width] = x, 0.0
        if rest is not None:
            host[:, self.step.width :] = rest
        self._staged[:count].copy_(self._host[:count], non_blocking=True)
        self._at.zero_()
        self.step.halted.zero_()

    def _download(self, count: int, columns: int) -> Vector:
        """Return results; this is the one place that waits for the device."""
        results: NDArray[np.float64] = self._results[:count, :columns].to("cpu", copy=True).numpy()
        return results

    def _recorded(self, name: str, function: Callable[[], None]) -> Callable[[], None]:
        """Return a function, captured when it is first asked for."""
        if name not in self._runs:
            self.step.halted.fill_(True)  # so that running it before the capture changes nothing
            self._at.zero_()
            self._runs[name] = captured(function, self._device)
        return self._runs[name]

    @torch.no_grad()
    def predict_row(self) -> None:
        """Predict the first staged row: what is captured for `predict`."""
        self._results[0].copy_(self.step.predict(self._staged[0]))

    @torch.no_grad()
    def learn_row(self) -> None:
        """Learn the staged row whose turn it is: what is captured for `learn`."""
        row = self._staged.index_select(0, self._at)[0]
        self._results.index_copy_(0, self._at, self.step.learn(row)[None])
        self._at.add_(1)

    @torch.no_grad()
    def average_row(self) -> None:
        """Count the weights after the row that was learned last into running means.

        It is captured on its own: few rows are counted, and in the graph of a row it would cost a pass over
        the weights for each.
        """
        self.step.average(self._staged[self._at - 1][0])
