"""One copy of any torch module, stepped through `BNP` and autograd as a CUDA graph can capture it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from ..layers import LayerAdapter, statistics_dtype
from ..preconditioner import BNP
from .base import ERROR_CLIP, LearnerSpec
from .mlp_ensemble import Proposal
from .replica import Replica
from .static_moments import PRIOR, WEIGHT, StaticMoments, write


class _StaticBNP(BNP):
    """`BNP` whose moments stay where they are, and are written only when their step is accepted."""

    def _start_moments(self, adapter: LayerAdapter) -> StaticMoments:
        weight = adapter.weight
        dtype = statistics_dtype(weight.dtype)
        return StaticMoments(adapter.channels, self.rho, dtype=dtype, device=weight.device)


class _StaticReplica(Replica):
    preconditioner = _StaticBNP


class ModularCopy:
    """One copy of a module at a fixed rate, with room for outputs to come.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how; its input shape is fixed.
    outputs : int
        For how many there is room; those that are not there yet have the logit −∞.
    device, dtype
        Of the copy.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses.

    Notes
    -----
    What the module does in Python is done when it is captured, and never again: a graph replays its kernels.
    """

    def __init__(self, spec: LearnerSpec, outputs: int, device: str, dtype: torch.dtype) -> None:
        self._shape = spec.input_shape or ()
        self._regression = spec.task == "regression"
        (only,) = spec.copies
        self._replica = _StaticReplica(spec, 0, only, device, dtype)
        self._replica.grow((), outputs)
        self._moments = {
            name: moments
            for name, moments in self._replica.bnp.moments.items()
            if isinstance(moments, StaticMoments)
        }
        self.floor = torch.full((outputs,), -math.inf, device=device, dtype=dtype)
        self.tensors = {"floor": self.floor}
        for name, value in self._replica.network.state_dict().items():
            self.tensors[f"network.{name}"] = value
        for name, moments in self._moments.items():
            for kind, value in moments.tensors.items():
                self.tensors[f"moments.{name}.{kind}"] = value

    def named(self) -> dict[str, Tensor]:
        """Return views of the copy's state, by its names, with a leading axis of 1, the room included."""
        named = {}
        for name, value in self._replica.network.state_dict().items():
            named[f"network.{name}"] = value[None]
        for name, moments in self._moments.items():
            mean, var, counts = moments.tensors.values()
            named[f"moments.{name}.mean"], named[f"moments.{name}.var"] = mean[None], var[None]
            named[f"moments.{name}.weight"] = counts[None, WEIGHT]
            named[f"moments.{name}.prior_weight"] = counts[None, PRIOR]
        return named

    @property
    def parameters(self) -> list[str]:
        """Names in `named` of what is trained."""
        return [f"network.{name}" for name, _ in self._replica.network.named_parameters()]

    def predict(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs for a standardized input, (1, C), and whether they can be used, (1,)."""
        outputs: Tensor = self._replica.network.eval()(self._input(z))
        return outputs, outputs.isfinite().all(dim=1)

    def propose(self, z: Tensor, goal: Tensor, weight: Tensor) -> Proposal:
        """Run the network on a sample and work out its step; see `BatchedCopies.propose`."""
        network = self._replica.network
        outputs, sound = self.predict(z[0])
        self._buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        with torch.enable_grad():
            loss = self._loss(network.train()(self._input(z[1])), goal)
            self._stepped = self._replica.descend(loss, weight)
        after = [loss.detach(), *(new for _, new in self._stepped), *(m.var for m in self._moments.values())]
        after += [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        alive = torch.cat([tensor.flatten() for tensor in after]).isfinite().all()
        return Proposal(outputs, sound, alive.view(1))

    def _input(self, z: Tensor) -> Tensor:
        return z.view(1, *self._shape)

    def _loss(self, out: Tensor, goal: Tensor) -> Tensor:
        if self._regression:
            return F.huber_loss(out, goal.to(out.dtype).view(1, 1), delta=ERROR_CLIP)
        return F.cross_entropy(out + self.floor, goal.to(torch.int64).view(1))

    def commit(self, accepted: Tensor) -> None:
        """Write what `propose` worked out, or put back what it had to write, by `accepted`, (1,)."""
        (go,) = accepted.unbind()
        for parameter, new in self._stepped:
            write(parameter, new, go)
        for buffer, before in self._buffers:
            write(buffer, before, ~go)
        for moments in self._moments.values():
            moments.settle(go)
        self._stepped, self._buffers = [], []
