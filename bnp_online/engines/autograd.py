"""The reference engine: any module, through `BNP` and torch's autograd."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from ..encoding import Vector
from ..errors import NonFiniteStateError, StateError
from ..moments import RunningMoments
from ..network import Network, cnn, mlp, with_head
from ..preconditioner import BNP
from .base import ERROR_CLIP, INPUT_CLIP, TARGET_CLIP, LearnerSpec


def build_network(spec: LearnerSpec) -> Network:
    """Return the network that a spec describes, without outputs."""
    if isinstance(spec.network, nn.Module):
        assert spec.input_shape is not None  # noqa: S101 (LearnerSpec has seen to it)
        return with_head(spec.network, spec.input_shape, spec.seed)
    if spec.network == "cnn":
        return cnn(spec.input_shape or (), spec.hidden, spec.activation, spec.seed)
    inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
    return mlp(spec.hidden, spec.activation, spec.seed, inputs)


def _input_layout(spec: LearnerSpec) -> tuple[int, int]:
    """Return how many inputs have statistics of their own, and how many positions share each of them.

    Every input of a multilayer perceptron has its own. Other networks get images or signals: there the first
    axis of three or more holds the channels, and the positions of a channel share its statistics.
    """
    shape = spec.input_shape
    if shape is None:
        return 0, 1
    if spec.network == "mlp" or len(shape) == 1:
        return math.prod(shape), 1
    channels = shape[0] if len(shape) > 2 else 1
    return channels, math.prod(shape) // channels


class AutogradEngine:
    """One copy of a network, trained through `BNP` and autograd.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Notes
    -----
    Tensors of the network and of its moments have a leading axis of length 1 in `state_dict`: the copies
    that run side by side.
    """

    name = "autograd"

    def __init__(self, spec: LearnerSpec, device: str) -> None:
        self.spec = spec
        self.device = device
        channels, self._positions = _input_layout(spec)
        self._inputs = RunningMoments(channels, rho=1.0, prior=0.0, dtype=torch.float64)
        self._targets = _Targets() if spec.task == "regression" else None
        self.network = build_network(spec).to(device)
        self.bnp = BNP(self.network, spec.rho, spec.eps_rel, spec.eps_abs, spec.step_scale)
        self._gradients = _OutputGradients(self.network, self.bnp) if self._targets is not None else None

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""
        if inputs:
            self._inputs.grow(len(inputs))
            self.network.grow_inputs(inputs)
            self.bnp.moments[self.network.entry or ""].grow(len(inputs))
        if outputs:
            self.network.grow_outputs(outputs)

    @torch.no_grad()
    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,), or the prediction, of shape (1,)."""
        out: Vector = self.network.eval()(self._standardize(x, self._inputs)).double().cpu().numpy()[0]
        if not np.isfinite(out).all():
            raise NonFiniteStateError("the network's outputs are not finite: use a smaller lr")
        if self._targets is not None:
            return self._targets.restore(out)
        exponentials = np.exp(out - out.max())
        probabilities: Vector = exponentials / exponentials.sum()
        return probabilities

    def learn(self, x: Vector, target: float, weight: float) -> None:
        """Take one step on one sample."""
        inputs, targets = copy.copy(self._inputs), copy.copy(self._targets)
        moments = {name: copy.copy(m) for name, m in self.bnp.moments.items()}
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        inputs.update(self._fill(x, inputs).T)
        out = self.network.train()(self._standardize(x, inputs))
        if targets is None:
            loss = F.cross_entropy(out, torch.tensor([int(target)], device=out.device))
        else:
            wanted = out.new_tensor([[targets.standardize(target)]])
            loss = F.huber_loss(out, wanted, delta=ERROR_CLIP)
        stepped = self._step(loss, weight)
        after = [new for _, new in stepped] + [m.var for m in self.bnp.moments.values()]
        with torch.no_grad():
            if not _finite([loss, *after, *self.network.buffers()]):
                self.bnp.load_state_dict({name: m.state_dict() for name, m in moments.items()})
                for buffer, before in buffers:
                    buffer.copy_(before)
                raise NonFiniteStateError("the step would make the state non-finite: use a smaller lr")
            for parameter, new in stepped:
                parameter.copy_(new)
        self._inputs, self._targets = inputs, targets

    def _step(self, loss: Tensor, weight: float) -> list[tuple[nn.Parameter, Tensor]]:
        """Back-propagate, precondition, and return each parameter with its new value."""
        self.network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.bnp.step()
        if self._gradients is not None:
            self._gradients.divide_by_gain()
        scale = self.spec.lr * weight
        with torch.no_grad():
            return [(p, p - p.grad * scale) for p in self.network.parameters() if p.grad is not None]

    def _fill(self, x: Vector, moments: RunningMoments) -> Tensor:
        """Return the input as (channels, positions), with the running mean in the place of missing values."""
        values = torch.from_numpy(x).reshape(-1, self._positions)
        return torch.where(values.isnan(), moments.mean[:, None], values)

    def _standardize(self, x: Vector, moments: RunningMoments) -> Tensor:
        z = self._fill(x, moments)
        if self.spec.standardize:
            scale = moments.var.sqrt()[:, None]
            z = ((z - moments.mean[:, None]) / scale).where(scale > 0, 0.0).clamp(-INPUT_CLIP, INPUT_CLIP)
        return z.float().view(1, *(self.spec.input_shape or (-1,))).to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes, on the CPU."""
        state = _flatten("inputs", self._inputs)
        if self._targets is not None:
            state |= self._targets.state_dict()
        for name, moments in self.bnp.moments.items():
            state |= {key: value[None] for key, value in _flatten(f"moments.{name}", moments).items()}
        for name, value in self.network.state_dict().items():
            state[f"network.{name}"] = value[None].cpu().clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, growing or shrinking to its size."""
        fresh = AutogradEngine(self.spec, self.device)
        try:
            fresh._take(state)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            raise StateError(f"the state does not fit this network: {error}") from error
        taken = fresh.state_dict()
        if taken.keys() != state.keys() or any(taken[k].shape != state[k].shape for k in taken):
            raise StateError("the state does not fit this network: it has other tensors")
        vars(self).update(vars(fresh))  # network and hooks together: hooked twice, inputs would count twice

    def _take(self, state: Mapping[str, Tensor]) -> None:
        """Fill a fresh engine."""
        columns = len(state["inputs.mean"]) - len(self._inputs.mean)
        self.grow([str(i) for i in range(columns)], state["network.head.bias"].shape[1])
        _unflatten("inputs", state, self._inputs)
        if self._targets is not None:
            self._targets.load_state_dict(state)
        stacked = {key: value[0] for key, value in state.items() if key.startswith(("moments.", "network."))}
        for name, moments in self.bnp.moments.items():
            _unflatten(f"moments.{name}", stacked, moments)
        prefix = "network."
        self.network.load_state_dict(
            {k[len(prefix) :]: v for k, v in stacked.items() if k.startswith(prefix)}
        )


class _Targets:
    """Running standardization of a regression's targets, and the range of targets seen."""

    def __init__(self) -> None:
        self.moments = RunningMoments(1, rho=1.0, prior=0.0, dtype=torch.float64)
        self.low, self.high = math.inf, -math.inf

    def __copy__(self) -> _Targets:
        new = _Targets()
        new.moments, new.low, new.high = copy.copy(self.moments), self.low, self.high
        return new

    def standardize(self, y: float) -> float:
        """Count a target in, then return its standardized, clipped value."""
        self.moments.update(torch.tensor([[y]], dtype=torch.float64))
        self.low, self.high = min(self.low, y), max(self.high, y)
        scale = math.sqrt(self.moments.var.item())
        z = (y - self.moments.mean.item()) / scale if scale > 0 else 0.0
        return min(max(z, -TARGET_CLIP), TARGET_CLIP)

    def restore(self, z: Vector) -> Vector:
        """Map predictions back, clipped to the range of targets seen, widened by half."""
        mean, scale = self.moments.mean.item(), math.sqrt(self.moments.var.item())
        margin = (self.high - self.low) / 4
        return np.clip(mean + scale * z, self.low - margin, self.high + margin)

    def state_dict(self) -> dict[str, Tensor]:
        range_ = torch.tensor([self.low, self.high], dtype=torch.float64)
        return {**_flatten("target", self.moments), "target.range": range_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        _unflatten("target", state, self.moments)
        self.low, self.high = state["target.range"].tolist()


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


def _finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number is finite. A finite sum says so; one that is not may have overflowed."""
    total = torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors]).sum()
    return bool(total.isfinite()) or all(bool(tensor.isfinite().all()) for tensor in tensors)


def _flatten(prefix: str, moments: RunningMoments) -> dict[str, Tensor]:
    return {
        f"{prefix}.{key}": torch.as_tensor(
            value, dtype=torch.float64 if isinstance(value, float) else None
        ).cpu()
        for key, value in moments.state_dict().items()
    }


def _unflatten(prefix: str, state: Mapping[str, Tensor], moments: RunningMoments) -> None:
    moments.load_state_dict({key: state[f"{prefix}.{key}"] for key in moments.state_dict()})
