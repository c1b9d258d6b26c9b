"""One copy of a network with its preconditioner: what the reference engine runs side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from ..network import Network, Seed, cnn, mlp, with_head
from ..preconditioner import BNP
from .base import ERROR_CLIP, Copy, LearnerSpec
from .state import flatten, unflatten

_NETWORK, _AVERAGE = "network.", "average."


def build_network(spec: LearnerSpec, seed: Seed) -> Network:
    """Return the network that a spec describes, without outputs."""
    if isinstance(spec.network, nn.Module):
        assert spec.input_shape is not None  # noqa: S101 (LearnerSpec has seen to it)
        return with_head(spec.network, spec.input_shape, seed)
    if spec.network == "cnn":
        return cnn(spec.input_shape or (), spec.hidden, spec.activation, seed)
    inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
    return mlp(spec.hidden, spec.activation, seed, inputs)


class Replica:
    """A network, its preconditioner, its learning rate.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    number : int
        Of this copy; it decides the random start.
    copy : Copy
        Its learning rate, and whether it averages.
    device, dtype
        Of the network.
    """

    #: What transforms its gradients.
    preconditioner: type[BNP] = BNP

    def __init__(self, spec: LearnerSpec, number: int, copy: Copy, device: str, dtype: torch.dtype) -> None:
        self.rate = copy.rate
        self._regression = spec.task == "regression"
        self.network = build_network(spec, (spec.seed, number)).to(device, dtype)
        self.bnp = self.preconditioner(self.network, spec.rho, spec.eps_rel, spec.eps_abs, spec.step_scale)
        self._gradients = _OutputGradients(self.network, self.bnp) if self._regression else None
        self._average: Network | None = None
        if copy.averages:
            self._average = build_network(spec, (spec.seed, number)).to(device, dtype)

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases, their running means aside."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs and outputs."""
        for _, network in self._networks():
            if inputs:
                network.grow_inputs(inputs)
            if outputs:
                network.grow_outputs(outputs)
        if inputs:
            self.bnp.moments[self.network.entry or ""].grow(len(inputs))

    @torch.no_grad()
    def outputs(self, z: Tensor) -> Tensor:
        """Return the outputs for a standardized input, in float64 on the CPU, of shape (outputs,)."""
        out: Tensor = (self._average or self.network).eval()(z)
        return out[0].double().cpu()

    def step(self, z: Tensor, goal: float, weight: float, *, replayed: bool = False) -> bool:
        """Take a step; return False, and change nothing, if it would make the copy non-finite.

        Parameters
        ----------
        z : Tensor of shape (1, …)
            Standardized input.
        goal : float
            Number of the class, or standardized target.
        weight : float
            Of the sample.
        replayed : bool
            Whether the sample was counted before: the moments of the first layer stay, then.
        """
        moments = {name: m.state_dict() for name, m in self.bnp.moments.items()}
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        entry = self.bnp.moments.get(self.network.first)
        if entry is not None:
            entry.frozen = replayed
        out = self.network.train()(z)
        if self._regression:
            loss = F.huber_loss(out, out.new_tensor([[goal]]), delta=ERROR_CLIP)
        else:
            loss = F.cross_entropy(out, torch.tensor([int(goal)], device=out.device))
        stepped = self.descend(loss, weight)
        after = [new for _, new in stepped] + [m.var for m in self.bnp.moments.values()]
        with torch.no_grad():
            if not all(bool(tensor.isfinite().all()) for tensor in (loss, *after, *self.network.buffers())):
                self.bnp.load_state_dict(moments)
                for buffer, before in buffers:
                    buffer.copy_(before)
                return False
            for parameter, new in stepped:
                parameter.copy_(new)
        return True

    @torch.no_grad()
    def average(self, share: float) -> None:
        """Count the latest weights into their running mean, if this copy averages."""
        if self._average is not None:
            for mean, latest in zip(self._average.parameters(), self.network.parameters(), strict=True):
                mean.add_(latest - mean, alpha=share)

    def start_again_from(self, other: Replica) -> None:
        """Take over another copy's weights and moments; a running mean starts at these weights."""
        state = {name: value for name, value in other.state_dict().items() if not name.startswith(_AVERAGE)}
        means = {n.replace(_NETWORK, _AVERAGE, 1): v for n, v in state.items() if n.startswith(_NETWORK)}
        self.load_state_dict(state | means)

    def descend(self, loss: Tensor, weight: float | Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        """Back-propagate, precondition, and return each parameter with the value that it is to get."""
        self.network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.bnp.step()
        if self._gradients is not None:
            self._gradients.divide_by_gain()
        scale = self.rate * weight
        with torch.no_grad():
            return [(p, p - p.grad * scale) for p in self.network.parameters() if p.grad is not None]

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters, buffers and moments, on the CPU; and, where it averages, the running means."""
        state: dict[str, Tensor] = {}
        for name, moments in self.bnp.moments.items():
            state |= flatten(f"moments.{name}", moments)
        for prefix, network in self._networks():
            state |= {f"{prefix}{k}": v.cpu().clone() for k, v in network.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` of a copy of the same size returned."""
        for name, moments in self.bnp.moments.items():
            unflatten(f"moments.{name}", state, moments)
        for prefix, network in self._networks():
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )

    def _networks(self) -> list[tuple[str, Network]]:
        """Return the network and, where it averages, that of the running means, by prefix in the state."""
        networks = [(_NETWORK, self.network)]
        return networks if self._average is None else [*networks, (_AVERAGE, self._average)]


class _OutputGradients:
    """Watches the gradients at the layers' outputs, to divide each layer's step by its gain.

    The squared loss has no bound on its curvature: what a layer's step changes is amplified on its way to the
    output by ``‖δ_l‖² / ‖δ_L‖²``, with δ_l the gradient at the layer's output and L the last layer.
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
        """Divide each layer's gradient by ``max(1, ‖δ_l‖² / ‖δ_L‖²)``."""
        squares = {n: o.grad.square().sum() for n, o in self._outputs.items() if o.grad is not None}
        self._outputs.clear()
        last = squares["head"]
        for name, square in squares.items():
            gain = torch.where(last > 0, square / last, 1.0).clamp(min=1.0)
            for parameter in self._layers[name].parameters(recurse=False):
                if parameter.grad is not None:
                    parameter.grad.div_(gain)
