"""Linear members beside the networks of an ensemble, stepped together."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import LearnerSpec
from .mlp_ensemble import EntryStep
from .numba_kernels import LARGEST
from .numba_members import LARGEST_RATE
from .static_moments import write


class LinearEnsemble:
    """Linear members. Their only layer is a first layer, so its moments are those of the networks.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    inputs, outputs : int
        Sizes, including spare ones; see `MLPEnsemble`.
    device, dtype
        Device and precision.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses.
    """

    def __init__(self, spec: LearnerSpec, inputs: int, outputs: int, device: str, dtype: torch.dtype) -> None:
        self._rates = torch.tensor(spec.linear, device=device, dtype=torch.float64)
        self._weight = torch.zeros(len(spec.linear), outputs, inputs, device=device, dtype=dtype)
        self._bias = torch.zeros(len(spec.linear), outputs, device=device, dtype=dtype)
        self._zero = torch.zeros((), device=device, dtype=dtype)
        self.tensors = {"linear.head.weight": self._weight, "linear.head.bias": self._bias}

    def run(self, z: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the members on standardized inputs.

        Parameters
        ----------
        z : (c, n)
            Inputs.
        weight : float64 () or None
            Sample weight of a step.

        Returns
        -------
        (L, C, c)
            Outputs.
        bool (L, c)
            Whether they are sound.
        bool (L,)
            Whether a member can take a step on the last input.
        """
        outs = self._weight @ z.T + self._bias[:, :, None]
        sound = (outs.abs() < LARGEST).all(dim=1) & (z.abs() < LARGEST).all(dim=1)
        able = sound[:, -1]
        return outs, sound, able if weight is None else able & (self._rates * weight < LARGEST_RATE)

    def step(self, gradient: Tensor, weight: Tensor, entry: EntryStep, accepted: Tensor) -> None:
        """Step the `accepted` members, (L,), along their output gradients, (L, C)."""
        scale = (self._rates * weight).to(gradient.dtype)[:, None] / entry.divisor
        steps = torch.where(accepted[:, None], scale * gradient, self._zero)
        self._weight.addcmul_(steps[:, :, None], entry.u, value=-1.0)
        self._bias.addcmul_(steps, entry.bias, value=-1.0)

    def recover(self, lost: Tensor, best: Tensor) -> None:
        """Restart the `lost` members, (L,), from the `best`, an index of shape (); without one, as new."""
        exists = ~lost.all()
        for values in (self._weight, self._bias):
            source = torch.where(exists, values.index_select(0, best.view(1)), self._zero)
            write(values, source, lost.view(-1, *[1] * (values.dim() - 1)))
