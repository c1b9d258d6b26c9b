"""Stacked copies of a perceptron: all learning rates and seeds of a setting train in one run.

A layer's step is ``W ← W − lr · δᵀU``, with δ the gradient at its outputs for each sample, and U its inputs;
for BNP, U is the inputs centred and scaled, ``U = (H − e μᵀ) diag(1/σ̃²)``, divided by q²: which is the
transform of `bnp_online.layers.precondition_`, applied to the factors of the gradient in place of their
product. So no gradient of a weight is stored. A test shows that each copy equals a plain loop with
`bnp_online.BNP` and ``torch.optim.SGD``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online.moments import RunningMoments

#: As `bnp_online.BNP` has them.
_RHO, _EPS_REL, _EPS_ABS = 0.99, 1e-2, 1e-4
#: Samples that are scored at a time.
_CHUNK = 500


class Stack:
    """Copies of one network, each with its own learning rate; plain SGD, with or without BNP.

    Parameters
    ----------
    networks : sequence of nn.Sequential
        Of ``nn.Linear``, ``nn.LayerNorm``, ``nn.BatchNorm1d`` and layers without parameters; all alike. Their
        weights are where the copies start.
    rates : sequence of float
        Learning rate of each.
    bnp : bool
        Whether the linear layers are preconditioned, with the scale of the paper.
    """

    def __init__(self, networks: Sequence[nn.Sequential], rates: Sequence[float], *, bnp: bool) -> None:
        parameters, buffers = stack_module_state(list(networks))
        self.tensors: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in (parameters | buffers).items()
        }
        self._layers = dict(networks[0].named_children())
        self._rates = torch.tensor(rates, dtype=torch.float64).to(self.tensors["0.weight"])[:, None, None]
        self._moments: dict[str, RunningMoments] = {}
        for name, layer in self._layers.items():
            if isinstance(layer, nn.LayerNorm | nn.BatchNorm1d):
                for part in ("weight", "bias"):
                    self.tensors[f"{name}.{part}"].requires_grad_()
            elif bnp and isinstance(layer, nn.Linear):
                count = len(networks) * layer.in_features
                self._moments[name] = RunningMoments(count, _RHO, dtype=self._rates.dtype)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the mean cross-entropy of a mini-batch for each copy, x (K, N, n) and y (K, N)."""
        dense: dict[str, tuple[Tensor, Tensor]] = {}
        out = self._run(x, dense)
        # A sum over copies: the gradient of each is that of its own mean.
        loss = F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
        trained = [tensor for tensor in self.tensors.values() if tensor.requires_grad]
        found = torch.autograd.grad(loss, [*(output for _, output in dense.values()), *trained])
        with torch.no_grad():
            for (name, (inputs, _)), delta in zip(dense.items(), found, strict=False):
                self._descend(name, inputs, delta)
            for tensor, grad in zip(trained, found[len(dense) :], strict=True):
                tensor.addcmul_(grad, self._rates[:, 0], value=-1.0)

    def _descend(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Step a linear layer by its inputs (K, N, n) and the gradient at its outputs (K, N, m)."""
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        delta = delta * self._rates
        if (moments := self._moments.get(name)) is None:
            weight.baddbmm_(delta.mT, inputs, alpha=-1)
            bias.sub_(delta.sum(1))
            return
        count, samples, width = inputs.shape
        # Not ``torch.var_mean``, which takes fifty times as long over the middle dimension.
        centre = inputs.mean(1, keepdim=True)
        spread = (inputs - centre).square_().mean(1) if samples > 1 else None
        moments.update_from(centre.flatten(), None if spread is None else spread.flatten())
        mean, var = moments.mean.view(count, 1, width), moments.var.view(count, 1, width)
        scale = var + (_EPS_REL * var.amax(2, keepdim=True) + _EPS_ABS)  # `layers.damped`, for each copy
        columns = (inputs - mean) / scale
        delta = delta / max(width / samples, 1.0)
        weight.baddbmm_(delta.mT, columns, alpha=-1)
        bias.sub_((delta * (1.0 - columns @ mean.mT)).sum(1))

    def _run(self, x: Tensor, dense: dict[str, tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Return the outputs (K, N, m); in training, store inputs and outputs of linear layers in `dense`."""
        for name, layer in self._layers.items():
            if isinstance(layer, nn.Linear):
                inputs, weight, bias = x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
                x = torch.baddbmm(bias[:, None], inputs, weight.mT)
                if dense is not None:
                    x = x if x.requires_grad else x.requires_grad_()
                    dense[name] = inputs.detach(), x
            elif isinstance(layer, nn.LayerNorm):
                x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
                x = self._rescale(name, x)
            elif isinstance(layer, nn.BatchNorm1d):
                x = self._rescale(name, self._by_batch(name, layer, x, training=dense is not None))
            else:
                x = layer(x)
        return x

    def _rescale(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return torch.addcmul(bias[:, None], x, weight[:, None])

    def _by_batch(self, name: str, layer: nn.BatchNorm1d, x: Tensor, *, training: bool) -> Tensor:
        """Normalize by the mini-batch of each copy; afterwards by the running averages, as torch does."""
        mean, var = self.tensors[f"{name}.running_mean"], self.tensors[f"{name}.running_var"]
        if not training:
            return (x - mean[:, None]).mul((var[:, None] + layer.eps).rsqrt())
        seen_mean = x.mean(1, keepdim=True)
        centred = x - seen_mean
        seen_var = centred.square().mean(1, keepdim=True)
        with torch.no_grad():
            samples, share = x.shape[1], layer.momentum or 0.0
            mean.lerp_(seen_mean[:, 0], share)
            var.lerp_(seen_var[:, 0] * (samples / (samples - 1)), share)
        return centred * (seen_var + layer.eps).rsqrt()

    @torch.no_grad()
    def score(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return each copy's mean cross-entropy and accuracy on samples, x (N, n) and y (N,)."""
        count = len(self._rates)
        loss, right = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for rows, labels in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
            out = self._run(rows.expand(count, -1, -1))
            by_class = out.flatten(0, 1)
            losses = F.cross_entropy(by_class, labels.repeat(count), reduction="none")
            loss += losses.view(count, -1).double().sum(1)
            right += (out.argmax(2) == labels).double().sum(1)
        return loss / len(y), right / len(y)
