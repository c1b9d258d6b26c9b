"""Running moments with tensors as counts, at fixed addresses, as a CUDA graph needs them.

No function here branches on a value or converts one to a Python number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..moments import RunningMoments

#: Entries along the last axis of counts: effective weight, and the rest of the pseudo-sample's weight.
WEIGHT, PRIOR = range(2)


def write(target: Tensor, value: Tensor, where: Tensor) -> None:
    """Write a value to a tensor where a condition holds, in one kernel; the condition broadcasts."""
    torch.where(where, value, target, out=target)


def advance(counts: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Return ``1 − ρ_t`` of the next step, and the counts after it.

    Parameters
    ----------
    counts : float64 (…, 2)
        Effective weight, and the rest of the pseudo-sample's weight.
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
    """Return mean and total variance after one step.

    Parameters
    ----------
    mean, var : Tensor
        Moments before the step.
    new : Tensor that broadcasts to them
        ``1 − ρ_t``.
    seen_mean, seen_var : Tensor
        Moments of the step's samples; a variance of None stands for zeros (one sample).
    """
    new = new.to(mean.dtype)
    difference = seen_mean - mean
    mean = torch.addcmul(mean, difference, new)
    # The remaining difference is ρ_t times the first: their product is the variance between steps.
    var = torch.lerp(var, difference * (seen_mean - mean), new)
    return mean, var if seen_var is None else torch.addcmul(var, seen_var, new)


class StaticMoments(RunningMoments):
    """Running moments at fixed addresses: `update_from` proposes a step, `settle` writes or discards it.

    Parameters
    ----------
    num_features, rho, dtype, device
        As in `RunningMoments`.

    Attributes
    ----------
    counts : float64 (2,)
        Replaces `weight` and `prior_weight`, which stay at their start.
    tensors : dict of str to Tensor
        Written state: ``mean``, ``var`` and ``counts``.
    """

    def __init__(
        self, num_features: int, rho: float, *, dtype: torch.dtype, device: torch.device | str | None
    ) -> None:
        super().__init__(num_features, rho, dtype=dtype, device=device)
        self.counts = torch.ones(2, dtype=torch.float64, device=device)
        self.tensors = {"mean": self.mean, "var": self.var, "counts": self.counts}

    def update_from(self, mean: Tensor, var: Tensor | None) -> None:
        """Propose a step from the mean and the biased variance of its samples."""
        new, self.counts = advance(self.counts, self._max_weight)
        self.mean, self.var = stepped(self.mean, self.var, new, mean, var)

    def settle(self, accepted: Tensor) -> None:
        """Write the proposed step if `accepted`, a bool of shape (), is true; else discard it."""
        for before, proposed in zip(self.tensors.values(), (self.mean, self.var, self.counts), strict=True):
            if proposed is not before:
                write(before, proposed, accepted)
        self.discard()

    def discard(self) -> None:
        """Discard the proposed step."""
        self.mean, self.var, self.counts = self.tensors.values()
