"""The online learner of any module from its definition: explicit matrices, float64, one sample at a time.

The forward pass and the plain gradients are torch's; standardization, preconditioning (`Reference`), gain and
step follow the definition and nothing of the library.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.reference import Array, ReferenceModel, array, gradients, samples
from tests.support.reference_learner import Cumulative


class ReferenceModule:
    """A module that learns.

    Parameters
    ----------
    network : nn.Module
        With a linear layer ``head``; it is trained in place.
    layers : sequence of str
        Names of the layers to precondition.
    channels : int
        Number of inputs with statistics of their own; the positions of each share them.
    task, lr, standardize
        As of a learner.
    **settings
        Of `Reference`.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: list[str],
        channels: int,
        task: str,
        lr: float,
        *,
        standardize: bool,
        **settings: Any,
    ) -> None:
        self.network = network.double()
        self.model = ReferenceModel(network, layers, **settings)
        self.task, self.lr, self.standardize = task, lr, standardize
        self.inputs = Cumulative(np.zeros((channels, 1)), np.zeros((channels, 1)))
        self.targets = Cumulative(np.zeros(1), np.zeros(1))
        self.low, self.high = math.inf, -math.inf
        self._outputs: dict[str, Tensor] = {}
        for name, layer in self.model.layers.items():
            layer.layer.register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, args: object, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            self._outputs[name] = output

    def grow(self, outputs: int) -> None:
        """Append outputs with zero weights and the lowest bias."""
        head = self.network.head
        assert isinstance(head, nn.Linear)
        weight, bias = head.weight.detach(), head.bias.detach()
        lowest = bias.min() if len(bias) else bias.new_zeros(())
        head.weight = nn.Parameter(torch.cat([weight, weight.new_zeros(outputs, weight.shape[1])]))
        head.bias = nn.Parameter(torch.cat([bias, lowest.expand(outputs)]))
        head.out_features += outputs

    def _filled(self, x: Array) -> Array:
        values = x.reshape(len(self.inputs.mean), -1)
        return np.where(np.isnan(values), self.inputs.mean, values)

    def _entry(self, x: Array) -> Tensor:
        z = self._filled(x)
        z = self.inputs.standardized(z, 5.0) if self.standardize else z
        return torch.from_numpy(z.reshape(1, *x.shape))

    def predict(self, x: Array) -> Array:
        with torch.no_grad():
            out = array(self.network.eval()(self._entry(x))[0])
        if self.task == "classification":
            p = np.exp(out - out.max())
            return np.asarray(p / p.sum())
        margin = (self.high - self.low) / 4.0
        y = self.targets.mean + np.sqrt(self.targets.var) * out
        return np.clip(y, self.low - margin, self.high + margin)

    def learn(self, x: Array, target: float, w: float) -> None:
        self._count(self._filled(x))
        self.network.train().zero_grad()
        out = self.model.forward(self._entry(x))
        if self.task == "classification":
            loss = torch.logsumexp(out[0], 0) - out[0, int(target)]
        else:
            y = np.array([target])
            self.targets.update(y)
            self.low, self.high = min(self.low, target), max(self.high, target)
            error = out[0, 0] - float(self.targets.standardized(y, 10.0)[0])
            inside = bool(abs(error) <= 5.0)
            loss = error**2 / 2.0 if inside else 5.0 * (abs(error) - 2.5)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        steps = {id(p): array(p.grad) for p in self.network.parameters() if p.grad is not None}
        last = float(np.square(array(self._outputs["head"].grad)).sum())  # type: ignore[arg-type]
        for name, layer in self.model.layers.items():
            parameters = list(layer.layer.parameters(recurse=False))
            inputs = self.model.inputs[name]
            if not inputs:  # a branch that did not run
                continue
            weight, *bias = [array(grad).copy() for grad in gradients(layer.layer)]
            own = layer.step(inputs, weight, bias[0] if bias else None, samples(layer.layer, inputs[0]))
            self.model.inputs[name] = []
            square = float(np.square(array(self._outputs[name].grad)).sum())  # type: ignore[arg-type]
            gain = max(1.0, square / last) if self.task == "regression" and last > 0.0 else 1.0
            steps |= {id(p): step / gain for p, step in zip(parameters, own, strict=True)}
        with torch.no_grad():
            for parameter in self.network.parameters():
                if id(parameter) in steps:
                    parameter.sub_(self.lr * w * torch.from_numpy(steps[id(parameter)]))

    def _count(self, x: Array) -> None:
        share = 1.0 / (self.inputs.n + 1)
        d = x.mean(axis=1, keepdims=True) - self.inputs.mean
        own = x.var(axis=1, keepdims=True)
        self.inputs.var = (1.0 - share) * self.inputs.var + share * own + share * (1.0 - share) * d**2
        self.inputs.mean = self.inputs.mean + share * d
        self.inputs.n += 1
