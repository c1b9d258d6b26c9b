"""Running mean and total variance of a stream of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigurationError, StateError

#: Rows that `mean_and_variance` adds up plainly, and numbers that it centres at a time otherwise.
_FEW, _PART = 1024, 2**16


def pool(*parts: tuple[float, Tensor, Tensor]) -> tuple[float, Tensor, Tensor]:
    """Pool the moments of sets of vectors, by the parallel formula of Chan et al.

    Parameters
    ----------
    *parts : tuple of (weight, mean, var)
        Weight ≥ 0 of a set (not 0 in all), and its mean and biased variance, of shape (n,).

    Returns
    -------
    tuple of (weight, mean, var)
        Those of the union, in the precision of the parts. Swapping two parts changes no bit.
    """
    weight, mean, var = parts[0]
    for more, other_mean, other_var in parts[1:]:
        total = weight + more
        if total > 0.0:
            share, rest = more / total, weight / total
            between = (other_mean - mean).square() * (share * rest)
            mean, var = rest * mean + share * other_mean, rest * var + share * other_var + between
        weight = total
    return weight, mean, var


def mean_and_variance(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance over all dimensions but one, as vectors.

    On a CPU ``torch.var_mean`` is not vectorized, except over the last dimension alone. A mini-batch of up to
    1024 rows therefore uses the kernel of batch normalization, which is thirty times as fast. That kernel
    loses precision on more rows. These, and images, take two passes; the second goes over a part of the
    samples at a time, which fits in the cache.

    Parameters
    ----------
    x : Tensor of shape (N, …)
        Samples, not empty.
    dims : list of int
        The dimensions to average over, the first one among them.
    """
    if not x.is_cpu:
        var, mean = torch.var_mean(x, dim=dims, correction=0)
        return mean, var
    if x.dim() == 2 and len(x) <= _FEW:
        return torch.batch_norm_update_stats(x, None, None, 0.0)
    mean = x.mean(dims, keepdim=True)
    parts = torch.split(x, max(1, _PART * len(x) // x.numel()))
    squares = (parts[0] - mean).square_().sum(dims)
    for part in parts[1:]:
        squares += (part - mean).square_().sum(dims)
    return mean.flatten(), squares.div_(x.numel() // mean.numel())


class RunningMoments:
    """Exponentially weighted mean and *total* variance, for any number of samples a step.

    With ``μ_A`` and ``σ_A²`` the mean and the biased variance of a step's samples and ``d = μ_A − μ``::

        σ² ← ρ_t σ² + (1 − ρ_t) σ_A² + ρ_t (1 − ρ_t) d²
        μ  ← μ + (1 − ρ_t) d

    The third term is the variance *between* steps, the only one with one sample a step. At the start of a
    stream the statistics are plain averages: ``ρ_t = min(ρ, n / (n + 1))`` with ``n`` the weight so far.

    Parameters
    ----------
    num_features : int
        Length n of the vectors, ≥ 0.
    rho : float
        Retention weight ρ in [0, 1]; 1 gives cumulative averages. (torch's ``momentum`` is 1 − ρ.)
    prior : float
        Weight ≥ 0 of an initial pseudo-sample with mean 0 and variance 1. With 0 the mean and the variance
        start at 0.
    dtype, device
        Of the statistics.

    Attributes
    ----------
    mean, var : Tensor of shape (n,)
        The statistics.
    weight : float
        Effective number of steps in the averages, including the pseudo-sample.
    prior_weight : float
        Remaining weight of the pseudo-sample.
    frozen : bool
        Whether steps leave the statistics unchanged.

    References
    ----------
    T. Finch, *Incremental calculation of weighted mean and variance*, 2009, for one sample a step; Lange,
    Helfrich, Ye, JMLR 23(72), 2022, Algorithm 1, averages the variance *within* batches instead, which is 0
    for one sample.

    Examples
    --------
    >>> moments = RunningMoments(1, rho=1.0, prior=0.0)
    >>> for value in (1.0, 2.0, 6.0):
    ...     moments.update(torch.tensor([[value]]))
    >>> moments.mean.item(), round(moments.var.item(), 4)
    (3.0, 4.6667)
    """

    def __init__(
        self,
        num_features: int,
        rho: float = 0.99,
        *,
        prior: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        if num_features < 0:
            raise ConfigurationError("num_features", f"{num_features} is negative")
        if not 0.0 <= rho <= 1.0:
            raise ConfigurationError("rho", f"{rho} is not in [0, 1]")
        if not 0.0 <= prior < math.inf:
            raise ConfigurationError("prior", f"{prior} is not a finite weight ≥ 0")
        self.rho = rho
        self.weight = prior
        self.prior_weight = prior
        self.frozen = False
        self._start_var = 1.0 if prior > 0 else 0.0
        self._max_weight = 1.0 / (1.0 - rho) if rho < 1.0 else math.inf
        self.mean = torch.zeros(num_features, dtype=dtype, device=device)
        self.var = torch.full_like(self.mean, self._start_var)

    @property
    def second_moment(self) -> Tensor:
        """Mean square ``σ² + μ²``, shape (n,)."""
        return self.var + self.mean.square()

    def update(self, x: Tensor) -> None:
        """Update the statistics with the rows of ``x``.

        Parameters
        ----------
        x : Tensor of shape (N, n)
            The step's samples, N ≥ 1.

        Raises
        ------
        ValueError
            If `x` has another shape.
        """
        if x.dim() != 2 or x.shape[0] == 0 or x.shape[1] != self.mean.shape[0]:
            raise ValueError(f"samples of shape {tuple(x.shape)}, not (N, {self.mean.shape[0]}) with N ≥ 1")
        x = x.detach().to(self.mean)
        if x.shape[0] == 1 or x.shape[1] == 0:
            self.update_from(x[0], None)
        else:
            self.update_from(*mean_and_variance(x, [0]))

    def update_from(self, mean: Tensor, var: Tensor | None) -> None:
        """Update the statistics with the mean and the biased variance of a step's samples.

        Parameters
        ----------
        mean, var : Tensor of shape (n,)
            Moments of the samples; a `var` of None stands for zeros (one sample).
        """
        if self.frozen:
            return
        self.weight, before = min(self.weight + 1.0, self._max_weight), self.weight
        new = 1.0 / self.weight  # 1 − ρ_t
        old = 1.0 - new
        if before > 0.0:
            self.prior_weight *= old * self.weight / before
        difference = mean - self.mean
        spread = self.var.mul(old) if var is None else torch.lerp(self.var, var, new)
        self.var = spread.addcmul_(difference, difference, value=old * new)
        self.mean = torch.add(self.mean, difference, alpha=new)

    def merge(self, other: RunningMoments) -> None:
        """Merge the statistics of `other`, as of one stream.

        The parallel formula of Chan et al., with the effective weights; the pseudo-sample counts once. Sets
        with ``rho=1`` merge exactly: two halves of a stream give the statistics of the whole.

        Parameters
        ----------
        other : RunningMoments
            Of the same length; left as it is.

        Raises
        ------
        StateError
            If the lengths differ.
        """
        if other.mean.shape != self.mean.shape:
            raise StateError(f"cannot merge moments of {len(other.mean)} features into {len(self.mean)}")
        # The pseudo-sample (mean 0, variance 1) is taken out of both and put back once. The smaller of the
        # two remainders is right: it makes moments that saw nothing the neutral element.
        prior = min(self.prior_weight, other.prior_weight)
        device = self.mean.device
        start = torch.zeros_like(self.mean, dtype=torch.float64)
        weight, mean, var = pool(self._seen(device), other._seen(device), (prior, start, start + 1.0))
        self.weight, self.prior_weight = weight, prior
        self.mean, self.var = mean.to(self.mean), var.to(self.var)

    def _seen(self, device: torch.device) -> tuple[float, Tensor, Tensor]:
        """Return weight, mean and variance of the samples without the pseudo-sample, in float64."""
        mean, var = self.mean.to(device, torch.float64), self.var.to(device, torch.float64)
        weight = self.weight - self.prior_weight
        if weight <= 0.0:
            return 0.0, torch.zeros_like(mean), torch.zeros_like(var)
        seen_mean = mean * (self.weight / weight)
        second = self.weight * var - self.prior_weight * (1.0 + mean * seen_mean)
        return weight, seen_mean, (second / weight).clamp_(min=0.0)

    def grow(self, count: int) -> None:
        """Append `count` features with mean 0 and variance 1 (0 without a pseudo-sample)."""
        self.mean = torch.cat([self.mean, self.mean.new_zeros(count)])
        self.var = torch.cat([self.var, self.var.new_full((count,), self._start_var)])

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the statistics to a device and a precision."""
        self.mean, self.var = self.mean.to(device, dtype), self.var.to(device, dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return the state: ``mean``, ``var``, ``weight``, ``prior_weight``."""
        return {
            "mean": self.mean.clone(),
            "var": self.var.clone(),
            "weight": self.weight,
            "prior_weight": self.prior_weight,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If a key is missing or unknown, the lengths differ, or a weight is not a finite number ≥ 0;
            nothing has changed.
        """
        expected = {"mean", "var", "weight", "prior_weight"}
        if set(state) != expected:
            raise StateError(f"moments have the keys {sorted(expected)}, not {sorted(state)}")
        for key in ("mean", "var"):
            if not isinstance(state[key], Tensor) or state[key].shape != self.mean.shape:
                raise StateError(f"{key} is not a tensor of shape {tuple(self.mean.shape)}")
        for key in ("weight", "prior_weight"):
            scalar = isinstance(state[key], int | float | Tensor) and torch.as_tensor(state[key]).dim() == 0
            if not scalar or not 0.0 <= state[key] < math.inf:
                raise StateError(f"{key} is {state[key]!r}, not a finite number ≥ 0")
        self.mean = state["mean"].to(self.mean, copy=True)
        self.var = state["var"].to(self.var, copy=True)
        self.weight = float(state["weight"])
        self.prior_weight = float(state["prior_weight"])

    def __repr__(self) -> str:
        return f"RunningMoments({len(self.mean)}, rho={self.rho}, weight={self.weight:.6g})"
