"""Bounds of values as tensor operations; see `numba_glitches` for the definition."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..mixture import BOUND_DEVIATIONS, BOUND_GROWTH, FIRST_DEVIATIONS, FIRST_VALUES
from .static_moments import write


class Bounded(NamedTuple):
    """Bounded values of a sample.

    Attributes
    ----------
    values : float64 (columns,)
        The values; NaN stays NaN.
    twentieth : bool (columns,)
        Whether the value is the 20th of its column.
    first : float64 (20, columns)
        The first values with this one as the last, clipped; used for a 20th value only.
    mean, var : float64 (columns,)
        Moments of these first values, computed anew.
    """

    values: Tensor
    twentieth: Tensor
    first: Tensor
    mean: Tensor
    var: Tensor

    def revise(self, columns: slice | int, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return moments that have counted the values; at the 20th value, those computed anew."""
        revised, shape = self.twentieth[columns], mean.shape
        own = self.mean[columns].view(shape), self.var[columns].view(shape)
        revised = revised.view(shape)
        return torch.where(revised, own[0], mean), torch.where(revised, own[1], var)

    def revise_range(self, column: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the range of a column; at the 20th value, that of the first values."""
        first, revised = self.first[:, column], self.twentieth[column]
        return torch.where(revised, first.amin(), low), torch.where(revised, first.amax(), high)


class Bounds:
    """Bounds of the values of inputs and, in a regression, of the target, which is the last column.

    Parameters
    ----------
    inputs : int
        Number of inputs, including spare ones. The values of a spare input are 0.
    targets : int
        1 for a regression, else 0.
    device : str
        Device.

    Attributes
    ----------
    first : float64 (20, columns)
        First values of each column; once there are 20, clipped.
    values, largest, joined, clipped : float64 (columns,)
        Number of values; largest deviation from the mean that was admitted; number of samples before the
        column joined; number of values that were clipped when standardized.
    """

    def __init__(self, inputs: int, targets: int, device: str) -> None:
        exact = torch.zeros((), device=device, dtype=torch.float64)
        self._inputs = inputs
        self.first = exact.new_zeros(FIRST_VALUES, inputs + targets)
        self.values, self.largest, self.joined, self.clipped = exact.new_zeros(4, inputs + targets).unbind()
        self._place = torch.arange(FIRST_VALUES, device=device, dtype=torch.float64)[:, None]
        self._unbounded = exact.new_tensor(math.inf)
        self.tensors = {
            f"bounds.{name}": getattr(self, name)
            for name in ("first", "values", "largest", "joined", "clipped")
        }

    def named(self) -> dict[str, Tensor]:
        """Return views of the state by name, including spare inputs."""
        kinds = {"inputs": slice(self._inputs)}
        if len(self.values) > self._inputs:
            kinds["target"] = slice(self._inputs, None)
        return {
            f"bounds.{kind}.{name.removeprefix('bounds.')}": value[..., columns]
            for kind, columns in kinds.items()
            for name, value in self.tensors.items()
        }

    def add_inputs(self, before: int, after: int, samples: float) -> None:
        """Use spare inputs, after a number of samples without them; their zeros were no values."""
        for each in (self.first, self.values, self.largest, self.clipped):
            each[..., before:after] = 0.0
        self.joined[before:after] = samples

    def bound(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Return the bounded values of a sample to predict, (n,); NaN stays NaN.

        Parameters
        ----------
        x, mean, var : float64 (n,)
            Raw values of the inputs, and the moments before them.
        """
        return self._bound(x, mean, var)[0]

    def bound_new(self, x: Tensor, mean: Tensor, var: Tensor) -> Bounded:
        """Return the bounded values of a sample to learn, and what a 20th value changes.

        At the 20th value the moments are computed anew. The samples before the column joined count as 0.
        Deviations are taken from the first value: 20 equal values have exactly the variance 0.

        Parameters
        ----------
        x, mean, var : float64 (columns,)
            Raw values, and the moments before them.
        """
        values, twentieth, first = self._bound(x, mean, var)
        own_var, own = torch.var_mean(first - first[0], dim=0, correction=0)
        own = first[0] + own
        share = FIRST_VALUES / (self.joined + FIRST_VALUES)
        own_var = share * (own_var + (1.0 - share) * own.square())
        return Bounded(values, twentieth, first, share * own, own_var)

    def _bound(self, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, largest, first = (each[..., : len(x)] for each in (self.values, self.largest, self.first))
        most = torch.maximum(var.sqrt() * BOUND_DEVIATIONS, largest * BOUND_GROWTH)
        bounding = (seen >= FIRST_VALUES) & (var > 0.0)
        twentieth = (seen == FIRST_VALUES - 1) & ~x.isnan()
        candidates = torch.cat([first[:-1], x[None]])
        low, high = self._limits(candidates)
        values = torch.where(bounding, x.clamp(mean - most, mean + most), x)
        values = torch.where(twentieth, x.clamp(low, high), values)
        return values, twentieth, candidates.clamp(low, high)

    def _limits(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return the median ± 15 median absolute deviations of the first values of each column."""
        half = FIRST_VALUES // 2
        ordered = first.sort(dim=0).values
        median = (ordered[half - 1] + ordered[half]) / 2.0
        ordered = (first - median).abs().sort(dim=0).values
        most = (ordered[half - 1] + ordered[half]) * FIRST_DEVIATIONS / 2.0
        most = torch.where(most > 0.0, most, self._unbounded)
        return median - most, median + most

    def count_clipped(self, clipped: Tensor, learned: Tensor) -> None:
        """Count the inputs that were clipped, (n,), if the sample was learned."""
        self.clipped[: self._inputs] += clipped & learned

    def admit(self, found: Bounded, before: Tensor, after: Tensor, learned: Tensor) -> None:
        """Count the bounded values of a sample that was learned.

        Parameters
        ----------
        found : Bounded
            Bounded values.
        before, after : float64 (columns,)
            Means before the sample and with it.
        learned : bool ()
            Whether the sample was learned.
        """
        values, twentieth = found.values, found.twentieth
        counted = ~values.isnan() & learned
        deviation = torch.where(twentieth, (found.first - after).abs().amax(dim=0), (values - before).abs())
        grown = torch.maximum(self.largest, deviation)
        write(self.largest, grown, counted & (self.values >= FIRST_VALUES - 1))
        write(self.first, values, counted & (self._place == self.values))
        write(self.first, found.first, counted & twentieth)
        write(self.values, self.values + 1.0, counted)
