"""Linear model of bins as tensor operations; see `numba_bins` for the definition."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..mixture import BIN_DAMPING, BIN_EDGES, BIN_INTEGERS, BIN_RATE, BINNED_INPUTS
from .numba_bins import BINS, INTERVALS
from .numba_members import LARGEST_RATE


class Found(NamedTuple):
    """Bins of a sample.

    Attributes
    ----------
    rows : int64 (2n + 1,)
        Row of the bias; of the interval of each input; of its integer.
    present : bool (2n + 1,)
        Whether the sample has the bin.
    outputs : (1, C)
        Outputs for the sample.
    """

    rows: Tensor
    present: Tensor
    outputs: Tensor


class Bins:
    """Linear model of bins.

    Parameters
    ----------
    inputs, outputs : int
        Sizes, including spare ones. A spare input has no bin.
    device, dtype
        Device and precision.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses: by their names in the state, and which inputs are in use.
    """

    def __init__(self, inputs: int, outputs: int, device: str, dtype: torch.dtype) -> None:
        self._inputs = min(inputs, BINNED_INPUTS)
        rows = 1 + self._inputs * BINS
        self._table = torch.zeros(rows, outputs, device=device, dtype=dtype)
        self._squares = torch.zeros(rows, device=device, dtype=dtype)
        self._used = torch.zeros(self._inputs, device=device, dtype=torch.bool)
        self._edges = torch.tensor(BIN_EDGES, device=device, dtype=torch.float64)
        self._first = torch.arange(1, rows, BINS, device=device)
        self._bias_row = torch.zeros(1, device=device, dtype=torch.int64)
        self._bias_present = torch.ones(1, device=device, dtype=torch.bool)
        self._zero, self._none = (
            torch.zeros((), device=device, dtype=torch.float64),
            self._table.new_zeros(()),
        )
        self.tensors = self.named() | {"bins.used": self._used}

    def named(self) -> dict[str, Tensor]:
        """Return views of the state by name, including spare inputs and outputs."""
        weight = self._table[1:].view(self._inputs, BINS, self._table.shape[1])
        return {"bins.weight": weight, "bins.head.bias": self._table[:1], "bins.squares": self._squares}

    def add_inputs(self, before: int, after: int) -> None:
        """Use spare inputs."""
        self._used[before:after] = True

    def run(self, z: Tensor, values: Tensor) -> Found:
        """Return the bins of a sample, and the outputs.

        Parameters
        ----------
        z : (n,)
            Standardized input.
        values : float64 (n,)
            Bounded values; NaN marks a missing one.
        """
        z, values = z[: self._inputs], values[: self._inputs]
        known = self._used & ~values.isnan()
        whole = known & (values >= 0.0) & (values < BIN_INTEGERS) & (values == values.floor())
        intervals = self._first + (z[:, None] > self._edges).sum(dim=1)
        integers = self._first + INTERVALS + torch.where(whole, values, self._zero).to(torch.int64)
        rows = torch.cat([self._bias_row, intervals, integers])
        present = torch.cat([self._bias_present, known, whole])
        weights = self._table.index_select(0, rows)
        return Found(rows, present, present.to(weights.dtype)[None] @ weights)

    def step(self, found: Found, delta: Tensor, weight: Tensor, learned: Tensor) -> None:
        """Step along the gradient at the outputs.

        Parameters
        ----------
        found : Found
            Bins of the sample.
        delta : (C,)
            Gradient at the outputs.
        weight : float64 ()
            Weight of the sample.
        learned : bool ()
            Whether the sample is learned.
        """
        stepped = found.present & learned & (weight < LARGEST_RATE)
        weight, count = weight.to(delta.dtype), found.present.sum()
        added = torch.where(stepped, (delta @ delta) * weight.square(), self._none)
        self._squares.index_add_(0, found.rows, added)
        squares = self._squares.index_select(0, found.rows)
        scale = BIN_RATE * weight / (count * (BIN_DAMPING + squares)).sqrt()
        scale = torch.where(stepped, scale, self._none)
        self._table.index_add_(0, found.rows, scale[:, None] * delta, alpha=-1)
