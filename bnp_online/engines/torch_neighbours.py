"""Nearest neighbours as tensor operations; see `numba_neighbours` for the definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..mixture import LEAST_VOTES, METRIC_POWER, NEIGHBOURS, neighbour_window
from .base import LearnerSpec
from .static_moments import write

#: Columns of the targets in the memory. The last two exist with neighbours only.
GOAL, SAMPLE_WEIGHT, RAW_TARGET, MISSING = range(4)
#: Relative difference of distances for one sample of age: far below the rounding of float32.
_TIE = 2.0**-50
#: The same for distances of 0.
_TIE_AT_ZERO = 1e-300


def most_window(inputs: int) -> int:
    """Return the greatest window of a size of tensors.

    Parameters
    ----------
    inputs : int
        Number of inputs, including spare ones: at most 31, or a fifth (`torch_engine.capacity`).
    """
    least = max(min(inputs - 31, inputs * 4 // 5), 1)
    return max(neighbour_window(least, window) for _, window, _ in NEIGHBOURS)


class Neighbours:
    """Nearest neighbours in the memory, in two metrics.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    inputs, outputs : int
        Sizes, including spare ones. A spare input is 0 in all samples.
    device, dtype
        Device and precision.

    Attributes
    ----------
    metric : (n,)
        Weight of each input in the network's own metric.
    windows : int64 (P,)
        Numbers of the newest samples that vote, for the inputs in use, by pair of metric and window.
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses.

    Notes
    -----
    The nearest are the smallest of ``d (1 + 2⁻⁵⁰ age)``: of ties, the newest. In float64, distances that
    differ by less than 2⁻³⁷ count as ties.
    """

    def __init__(self, spec: LearnerSpec, inputs: int, outputs: int, device: str, dtype: torch.dtype) -> None:
        self._regression = spec.task == "regression"
        self._capacity = spec.remembered
        self._pairs = sorted({(metric, window) for metric, window, _ in NEIGHBOURS})
        rows = min(spec.remembered, most_window(inputs))
        whole = torch.int64
        self._age = torch.arange(rows, device=device, dtype=whole)
        self._tie = 1.0 + self._age * torch.tensor(_TIE, device=device, dtype=torch.float64)
        self._tie_at_zero = self._age * torch.tensor(_TIE_AT_ZERO, device=device, dtype=torch.float64)
        self._most = min(max(k for *_, k in NEIGHBOURS), rows)
        self._metric_of = torch.tensor([metric for metric, _ in self._pairs], device=device, dtype=whole)
        pairs = [self._pairs.index((metric, window)) for metric, window, _ in NEIGHBOURS]
        self._pair_of = torch.tensor(pairs, device=device, dtype=whole)
        rank = torch.arange(self._most, device=device, dtype=whole)
        self._votes = rank < torch.tensor([[k] for *_, k in NEIGHBOURS], device=device, dtype=whole)
        self._class = torch.arange(outputs, device=device, dtype=torch.float64)
        self._zero = torch.zeros((), device=device, dtype=torch.float64)
        self._missing, self._far = (
            torch.full((), value, device=device, dtype=dtype) for value in (math.nan, math.inf)
        )
        self._one = torch.ones((), device=device, dtype=torch.float64)
        self.metric = torch.zeros(inputs, device=device, dtype=dtype)
        self.windows = torch.zeros(len(self._pairs), device=device, dtype=whole)
        self._inputs = torch.zeros((), device=device, dtype=dtype)
        self.add_inputs(0, 0)
        self.tensors = {"metric": self.metric, "windows": self.windows, "inputs_in_use": self._inputs}

    def add_inputs(self, before: int, after: int) -> None:
        """Use spare inputs."""
        self.metric[before:after] = 1.0
        self._inputs.fill_(max(after, 1))
        windows = [neighbour_window(after, window) for _, window in self._pairs]
        self.windows.copy_(torch.tensor(windows, dtype=torch.int64))

    def predict(
        self, z: Tensor, missing: Tensor, memory: tuple[Tensor, Tensor], remembered: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the predictions, float64 (E, C), and whether there are any, (E,).

        Parameters
        ----------
        z, missing : (n,)
            Standardized input, and which values are missing.
        memory : tuple of (S, n), float64 (S, 4)
            The memory. NaN marks a missing value.
        remembered : int64 ()
            Number of samples remembered so far.
        classes : float64 ()
            Number of classes seen.
        """
        places = (remembered - 1 - self._age) % self._capacity
        others = memory[0].index_select(0, places)
        distances = self._measure(others - torch.where(missing, self._missing, z))
        distances = distances.index_select(0, self._metric_of)
        within = self._age < torch.minimum(self.windows, remembered)[:, None]
        distances = torch.where(within & (distances < self._far), distances, self._far).double()
        order = distances * self._tie + self._tie_at_zero
        ages = order.topk(self._most, largest=False).indices
        nearest = distances.gather(1, ages).index_select(0, self._pair_of)
        voters = places.index_select(0, ages.index_select(0, self._pair_of).flatten())
        samples = memory[1].index_select(0, voters).view(*nearest.shape, -1)
        return self._vote(nearest, samples, classes)

    def _measure(self, differences: Tensor) -> Tensor:
        """Return squared distances in both metrics, (2, S); NaN where no input is present in both."""
        squares = differences.square()
        unknown = squares.isnan()
        squares = squares.nan_to_num(0.0)
        scale = self._inputs / (self._inputs - unknown.sum(dim=1))
        return torch.stack([squares.sum(dim=1), (squares * self.metric).sum(dim=1)]) * scale

    def _vote(self, nearest: Tensor, samples: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions from the nearest, (E, k) and (E, k, 4), ascending."""
        voting = (nearest < self._far) & self._votes
        distances = torch.where(voting, nearest, self._zero)
        radius = distances.amax(dim=1, keepdim=True)
        votes = samples[..., SAMPLE_WEIGHT] / (0.1 + (distances / (radius + 1e-9)).sqrt())
        votes = torch.where(voting, votes, self._zero)
        total = votes.sum(dim=1, keepdim=True)
        if self._regression:
            sums = (votes * samples[..., RAW_TARGET]).sum(dim=1, keepdim=True)
            return sums / total, total[:, 0] >= LEAST_VOTES
        seen = classes.clamp(min=1.0)
        prior = torch.where(self._class < seen, 0.5 / seen, self._zero)
        labels = samples[..., RAW_TARGET, None] == self._class
        shares = torch.where(labels, votes[..., None], self._zero).sum(dim=1)
        return (prior + shares) / (0.5 + total), total[:, 0] >= 0.0

    def renew(self, weights: Tensor, learned: Tensor) -> None:
        """Compute the network's own metric anew from the weights of its first layer, (m, n)."""
        diagonal = weights.double().square().sum(dim=0)
        mean = diagonal.sum() / self._inputs
        metric = torch.where(mean > 0.0, (diagonal / mean).pow(METRIC_POWER), self._one)
        write(self.metric, metric.to(self.metric.dtype), learned)
