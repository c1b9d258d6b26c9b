"""Running moments whose counts are tensors too, so that a CUDA graph can step them.

Nothing here branches on a value, and nothing turns one into a Python number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..moments import RunningMoments

#: Entries along the last axis of counts: effective weight, and what is left of the pseudo-sample's.
WEIGHT, PRIOR = range(2)


def write(target: Tensor, value: Tensor, where: Tensor) -> None:
    """Write to a tensor where a condition that broadcasts to it is true, in one kernel."""
    torch.where(where, value, target, out=target)


def advance(counts: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Return ``1 − ρ_t`` of the next step, and the counts after it.

    Parameters
    ----------
    counts : float64 (…, 2)
        Weight, and what is left of the pseudo-sample's.
    most : float
        Greatest weight, ``1 / (1 − ρ)``.

    Returns
    -------
    float64 (…), float64 (…, 2)
    """
    before, prior = counts.unbind(-1)
    weight = (before + 1.0).clamp(max=most)
    return weight.reciprocal(), torch.stack([weight, prior * ((weight - 1.0) / before)], dim=-1)


def stepped(
    mean: Tensor, var: Tensor, new: Tensor, seen_mean: Tensor, seen_var: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and total variance after a step with samples of which these are known.

    Parameters
    ----------
    mean, var : Tensor
        Before the step.
    new : Tensor that broadcasts to them
        ``1 − ρ_t``.
    seen_mean, seen_var : Tensor
        Of the step's samples; a variance of None stands for zeros (one sample).
    """
    new = new.to(mean.dtype)
    difference = seen_mean - mean
    mean = torch.addcmul(mean, difference, new)
    # What is left of the difference is ρ_t of it: together they make the variance between steps.
    var = torch.lerp(var, difference * (seen_mean - mean), new)
    return mean, var if seen_var is None else torch.addcmul(var, seen_var, new)


class StaticMoments(RunningMoments):
    """Running moments at fixed addresses: a step is proposed first, and written, or not, later.

    Parameters
    ----------
    num_features, rho, dtype, device
        As in `RunningMoments`.

    Attributes
    ----------
    counts : float64 (2,)
        Stands for `weight` and `prior_weight`, which do not move.
    tensors : dict of str to Tensor
        ``mean``, ``var`` and ``counts`` as they were last written.
    """

    def __init__(
        self, num_features: int, rho: float, *, dtype: torch.dtype, device: torch.device | str | None
    ) -> None:
        super().__init__(num_features, rho, dtype=dtype, device=device)
        self.counts = torch.ones(2, dtype=torch.float64, device=device)
        self.tensors = {"mean": self.mean, "var": self.var, "counts": self.counts}

    def update_from(self, mean: Tensor, var: Tensor | None) -> None:
        """Propose a step with samples of which the mean and the biased variance are known."""
        new, self.counts = advance(self.counts, self._max_weight)
        self.mean, self.var = stepped(self.mean, self.var, new, mean, var)

    def settle(self, accepted: Tensor) -> None:
        """Write what was proposed since the last call, if `accepted`, a bool of shape (), is true."""
        for before, proposed in zip(self.tensors.values(), (self.mean, self.var, self.counts), strict=True):
            if proposed is not before:
                write(before, proposed, accepted)
        self.mean, self.var, self.counts = self.tensors.values()
