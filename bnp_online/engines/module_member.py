"""Member of any architecture: a torch module, stepped through `BNP` and autograd."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from ..layers import LayerAdapter, statistics_dtype
from ..network import Network, cnn, from_layers, with_head
from ..preconditioner import BNP
from ..values import Vector
from .base import ERROR_CLIP, LearnerSpec
from .mlp_ensemble import Proposal
from .static_moments import PRIOR, WEIGHT, StaticMoments, write


def build_network(spec: LearnerSpec) -> Network:
    """Return the convolutional network, list of layers, or module of a spec, without outputs."""
    assert spec.input_shape is not None  # noqa: S101 (LearnerSpec checks it)
    if isinstance(spec.network, nn.Module):
        return with_head(spec.network, spec.input_shape)
    if isinstance(spec.network, list):
        return from_layers(spec.network, spec.input_shape, (spec.seed, 0))
    return cnn(spec.input_shape, spec.hidden, spec.activation, (spec.seed, 0))


class _StaticBNP(BNP):
    """`BNP` with moments at fixed addresses."""

    def _start_moments(self, adapter: LayerAdapter) -> StaticMoments:
        weight = adapter.weight
        dtype = statistics_dtype(weight.dtype)
        return StaticMoments(adapter.channels, self.rho, dtype=dtype, device=weight.device)

    def forget(self) -> None:
        """Forget the observed inputs of a step that was not taken."""
        for layer in self._layers.values():
            layer.forget()


class ModuleMember:
    """One module at a fixed learning rate, with spare outputs for classes to come.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner; its input shape is fixed.
    outputs : int
        Number of outputs, including spare ones. A spare output has the logit −∞.
    device, dtype
        Device and precision.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses.

    Notes
    -----
    In a CUDA graph the Python code of the module runs during the capture only.
    """

    def __init__(self, spec: LearnerSpec, outputs: int, device: str, dtype: torch.dtype) -> None:
        self._shape = spec.input_shape or ()
        self._regression = spec.task == "regression"
        self._rate = spec.members[0].rate
        self._network = network = build_network(spec).to(device, dtype)
        network.grow_outputs(outputs)
        self._bnp = _StaticBNP(network, spec.rho, spec.eps_rel, spec.eps_abs, spec.step_scale)
        self._parameters, self._buffers = list(network.parameters()), list(network.buffers())
        self._gradients = _OutputGradients(network, self._bnp) if self._regression else None
        self._moments = {n: m for n, m in self._bnp.moments.items() if isinstance(m, StaticMoments)}
        self._stepped: list[tuple[Tensor, Tensor]] = []
        self._before: list[Tensor] = []
        self.floor = torch.full((outputs,), -math.inf, device=device, dtype=dtype)
        self.tensors = {"floor": self.floor}
        self.tensors |= {f"network.{name}": value for name, value in network.state_dict().items()}
        for name, moments in self._moments.items():
            self.tensors |= {f"moments.{name}.{kind}": value for kind, value in moments.tensors.items()}

    def named(self) -> dict[str, Tensor]:
        """Return views of the state by name, with a leading axis of 1, including spare outputs."""
        named = {f"network.{name}": value[None] for name, value in self._network.state_dict().items()}
        for name, moments in self._moments.items():
            mean, var, counts = moments.tensors.values()
            named[f"moments.{name}.mean"], named[f"moments.{name}.var"] = mean[None], var[None]
            named[f"moments.{name}.weight"] = counts[None, WEIGHT]
            named[f"moments.{name}.prior_weight"] = counts[None, PRIOR]
        return named

    @property
    def parameters(self) -> list[str]:
        """Names of the trained tensors in `named`."""
        return [f"network.{name}" for name, _ in self._network.named_parameters()]

    def predict(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs for a standardized input, (1, C), and whether they are finite, (1,)."""
        if self._network.training:
            self._network.eval()
        outputs: Tensor = self._network(self._input(z))
        return outputs, outputs.isfinite().all(dim=1)

    def mean_gradient(self, z: Tensor, label: int, points: Vector, weights: Vector) -> Tensor:
        """Return the mean gradient of an output on a line between two inputs, in one batch.

        Parameters
        ----------
        z : (2, n)
            Standardized inputs: the end of the line, and its start.
        label : int
            Class whose log odds are the output; −1 for the output of a regression.
        points, weights : arrays of shape (Q,)
            Places on the line, in [0, 1], and their weights, with the sum 1.
        """
        self._network.eval()
        at = torch.from_numpy(points).to(z)[:, None]
        with torch.enable_grad():
            line = (z[1] + at * (z[0] - z[1])).requires_grad_()
            outputs = self._network(line.view(-1, *self._shape))[:, : int((self.floor == 0.0).sum())]
            explained = outputs[:, 0] if label < 0 else log_odds(outputs, label)
            (gradients,) = torch.autograd.grad(explained.sum(), line)
        return torch.from_numpy(weights).to(gradients) @ gradients

    def propose(self, z: Tensor, goal: Tensor, weight: Tensor, *, predict: bool) -> Proposal:
        """Compute the prediction and the step of a sample; see `MLPEnsemble.propose`."""
        outputs, sound = self.predict(z[0]) if predict else (None, None)
        self._before = [buffer.clone() for buffer in self._buffers]
        if not self._network.training:
            self._network.train()
        for parameter in self._parameters:
            parameter.grad = None
        with torch.enable_grad():
            loss = self._loss(self._network(self._input(z[1])), goal)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._bnp.step()
        if self._gradients is not None:
            self._gradients.divide_by_gain()
        scale = (self._rate * weight).to(self.floor.dtype)
        stepping = [(p, p.grad) for p in self._parameters if p.grad is not None]
        self._stepped = [(p, torch.addcmul(p, grad, scale, value=-1.0)) for p, grad in stepping]
        after = [loss.detach(), *(new for _, new in self._stepped), *(m.var for m in self._moments.values())]
        after += [buffer for buffer in self._buffers if buffer.is_floating_point()]
        alive = torch.cat([tensor.flatten() for tensor in after]).isfinite().all()
        return Proposal(outputs, sound, alive.view(1))

    def _input(self, z: Tensor) -> Tensor:
        return z.view(1, *self._shape)

    def _loss(self, out: Tensor, goal: Tensor) -> Tensor:
        if self._regression:
            return F.huber_loss(out, goal.to(out.dtype).view(1, 1), delta=ERROR_CLIP)
        return F.cross_entropy(out + self.floor, goal.to(torch.int64).view(1))

    def commit(self, accepted: Tensor) -> None:
        """Write the proposed step, or restore the buffers of the module, by `accepted`, (1,)."""
        (go,) = accepted.unbind()
        for parameter, new in self._stepped:
            write(parameter, new, go)
        for buffer, before in zip(self._buffers, self._before, strict=True):
            write(buffer, before, ~go)
        for moments in self._moments.values():
            moments.settle(go)
        self._stepped, self._before = [], []

    def discard(self) -> None:
        """Discard a step that was proposed in part; allocates no memory of the device."""
        for buffer, before in zip(self._buffers, self._before, strict=False):
            buffer.copy_(before)
        self._bnp.forget()
        for moments in self._moments.values():
            moments.discard()
        for parameter in self._parameters:
            parameter.grad = None
        self._stepped, self._before = [], []


class _OutputGradients:
    """Gradients at the outputs of the layers, used to divide the step of each layer by its gain.

    The curvature of the squared loss has no bound. The change made by a layer's step is amplified on its way
    to the output by ``‖δ_l‖² / ‖δ_L‖²``, with δ_l the gradient at the layer's output and L the last layer.
    """

    def __init__(self, network: Network, bnp: BNP) -> None:
        self._layers = {name: network.get_submodule(name) for name in bnp.moments}
        self._outputs: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            layer.register_forward_hook(functools.partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, args: object, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            self._outputs[name] = output

    def divide_by_gain(self) -> None:
        """Divide the gradient of each layer by ``max(1, ‖δ_l‖² / ‖δ_L‖²)``."""
        squares = {n: o.grad.square().sum() for n, o in self._outputs.items() if o.grad is not None}
        self._outputs.clear()
        last = squares["head"]
        for name, square in squares.items():
            gain = torch.where(last > 0, square / last, 1.0).clamp(min=1.0)
            for parameter in self._layers[name].parameters(recurse=False):
                if parameter.grad is not None:
                    parameter.grad.div_(gain)


def log_odds(logits: Tensor, label: int) -> Tensor:
    """Return the log odds of a class in logits, (Q, C); 0 with a single class."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.logsumexp(dim=1) if others.shape[1] else 0.0 * logits[:, 0]
