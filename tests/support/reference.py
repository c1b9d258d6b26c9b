"""BNP from its definition: explicit matrices, float64, numpy. What the library is measured against.

Everything here follows the definition and nothing follows the library: ``Ĥ = [e, H]`` is written out for
every layer kind, ``P = U D`` is a matrix, and the running moments are recomputed from the first step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
PAD_MODES: dict[str, Any] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def array(x: Tensor) -> Array:
    """The values of a tensor in float64."""
    return x.detach().cpu().double().numpy()


def relative_error(got: Sequence[Tensor | Array], expected: Sequence[Array]) -> float:
    """Norm-wise: ‖got − expected‖ / ‖expected‖, over several arrays taken together."""
    a, b = (
        np.concatenate([np.ravel(array(x) if isinstance(x, Tensor) else x) for x in xs])
        for xs in (got, expected)
    )
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), np.finfo(float).tiny))


def running_moments(steps: Sequence[Array], rho: float) -> tuple[Array, Array]:
    """Mean and total variance after steps of samples of shape (N, n): the recursion itself, as a loop."""
    mean, var = np.zeros(steps[0].shape[1]), np.ones(steps[0].shape[1])
    for t, samples in enumerate(steps):
        rho_t = min(rho, (t + 1) / (t + 2))
        d = samples.mean(axis=0) - mean
        var = rho_t * var + (1 - rho_t) * samples.var(axis=0) + rho_t * (1 - rho_t) * d**2
        mean = mean + (1 - rho_t) * d
    return mean, var


def padded(x: Array, conv: Conv) -> Array:
    """The input of a convolution, (N, channels, *size), padded as the layer pads it."""
    widths = [(0, 0), (0, 0)]
    for i, kernel in enumerate(conv.kernel_size):
        span = conv.dilation[i] * (kernel - 1)
        if isinstance(conv.padding, str):
            widths.append((span // 2, span - span // 2) if conv.padding == "same" else (0, 0))
        else:
            widths.append((conv.padding[i], conv.padding[i]))
    return np.pad(x, widths, mode=PAD_MODES[conv.padding_mode])


def patches_by_loop(x: Array, conv: Conv) -> Array:
    """Patch matrix (N·T, channels·kernel) of a padded input, one output position after the other."""
    axes = []
    for size, kernel, stride, dilation in zip(
        x.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
    ):
        span = dilation * (kernel - 1) + 1
        axes.append([slice(at, at + span, dilation) for at in range(0, size - span + 1, stride)])
    patches = [x[(slice(None), slice(None), *window)].reshape(len(x), -1) for window in product(*axes)]
    return np.stack(patches, axis=1).reshape(-1, patches[0].shape[1])


def patches_by_unfold(x: Array, conv: nn.Conv2d) -> Array:
    """The same by `torch.nn.functional.unfold`, for two dimensions."""
    size, dilation, stride = conv.kernel_size, conv.dilation, conv.stride
    columns = nn.functional.unfold(torch.from_numpy(x), size, dilation=dilation, stride=stride)
    return array(columns.transpose(1, 2).flatten(0, 1))


def input_matrices(layer: nn.Module, x: Array) -> list[Array]:
    """H of shape (rows, columns), for each group: a layer's output is ``H Wᵀ + e bᵀ``."""
    if isinstance(layer, nn.Linear):
        return [x.reshape(-1, x.shape[-1])]
    assert isinstance(layer, Conv)
    x = padded(x if x.ndim == len(layer.kernel_size) + 2 else x[None], layer)
    patches = patches_by_unfold(x, layer) if isinstance(layer, nn.Conv2d) else patches_by_loop(x, layer)
    return np.split(patches, layer.groups, axis=1)


def vectors(layer: nn.Module, x: Array) -> Array:
    """What the statistics are taken over, (count, n): rows of a linear layer, positions of a convolution."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(layer, Conv)
    x = x if x.ndim == len(layer.kernel_size) + 2 else x[None]
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def samples(layer: nn.Module, x: Array) -> int:
    """N: the rows of a linear layer, the images of a convolution."""
    if isinstance(layer, nn.Linear):
        return x[..., 0].size
    assert isinstance(layer, Conv)
    return len(x) if x.ndim == len(layer.kernel_size) + 2 else 1


def preconditioner(mean: Array, scale: Array, *, centred: bool) -> Array:
    """``P = U D`` of shape (n+1, n+1), from μ and σ̃²; without centring ``P = D`` of shape (n, n)."""
    if not centred:
        return np.diag(1 / np.sqrt(scale))
    u = np.eye(1 + len(mean))
    u[0, 1:] = -mean
    return u @ np.diag(np.concatenate([[1.0], 1 / np.sqrt(scale)]))


@dataclass
class Reference:
    """One layer under BNP: `step` takes what a training step used and returns what BNP must make of it."""

    layer: nn.Module
    rho: float = 0.99
    eps_rel: float = 1e-2
    eps_abs: float = 1e-4
    step_scale: str = "paper"
    seen: list[Array] = field(default_factory=list)

    @property
    def moments(self) -> tuple[Array, Array]:
        """Running mean and variance by feature or channel."""
        return running_moments(self.seen, self.rho)

    def step(
        self,
        inputs: Sequence[Array],
        weight: Array,
        bias: Array | None,
        n: int | None = None,
        layers: Sequence[nn.Module] | None = None,
    ) -> list[Array]:
        """Return what the gradients of a step must become.

        Parameters
        ----------
        inputs : sequence of Array
            Of each call of the layer.
        weight, bias : Array
            The gradients as they are.
        n : int
            Number of samples, if they are not those of all calls.
        layers : sequence of nn.Module
            The layer that was called, if several share their parameters.
        """
        calls = list(zip(layers or [self.layer] * len(inputs), inputs, strict=True))
        self.seen.append(np.concatenate([vectors(layer, x) for layer, x in calls]))
        mean, scale = self.moments
        if bias is None:
            scale = scale + mean**2
        scale = scale + self.eps_rel * scale.max() + self.eps_abs
        per_call = [input_matrices(layer, x) for layer, x in calls]
        matrices = [np.concatenate(group) for group in zip(*per_call, strict=True)]
        kernel = int(np.prod(weight.shape[2:]))
        ps = [
            preconditioner(m.repeat(kernel), s.repeat(kernel), centred=bias is not None)
            for m, s in zip(np.split(mean, len(matrices)), np.split(scale, len(matrices)), strict=True)
        ]
        q2 = self._q2(matrices, ps, n or sum(samples(layer, x) for layer, x in calls), bias is not None)
        extended = weight.reshape(len(weight), -1)
        if bias is not None:
            extended = np.column_stack([bias, extended])
        rows = np.split(extended, len(matrices))
        new = np.concatenate([g @ (p @ p.T).T for g, p in zip(rows, ps, strict=True)]) / q2
        return [new.reshape(weight.shape)] if bias is None else [new[:, 1:].reshape(weight.shape), new[:, 0]]

    def _q2(self, matrices: Sequence[Array], ps: Sequence[Array], n: int, centred: bool) -> float:
        """q² of the step scale, from the explicit preconditioned matrix ``G = Ĥ P`` of each group."""
        if self.step_scale == "none":
            return 1.0
        if self.step_scale == "paper":
            return max(float(matrices[0].shape[1] / n), 1.0)
        extended = [np.column_stack([np.ones(len(h)), h]) if centred else h for h in matrices]
        square = float(np.mean([np.square(h @ p).sum() for h, p in zip(extended, ps, strict=True)]))
        positions = len(matrices[0]) / n
        return max(square / (n**2 * positions), 1.0)


class ReferenceModel:
    """Some layers of a model under BNP: notes what `forward` feeds them, and transforms a step's gradients.

    Parameters
    ----------
    model : nn.Module
        The model.
    names : sequence of str
        Its layers, as in ``model.named_modules()``.
    **settings
        Of `Reference`.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], **settings: Any) -> None:
        self.model = model
        self.layers = {name: Reference(model.get_submodule(name), **settings) for name in names}
        self.inputs: dict[str, list[Array]] = {name: [] for name in names}

    def forward(self, *args: Tensor) -> Tensor:
        """Call the model; its layers' inputs count in the next `step`."""

        def note(name: str, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            self.inputs[name].append(array(args[0] if args else kwargs["input"]))

        handles = [
            layer.layer.register_forward_pre_hook(partial(note, name), with_kwargs=True)
            for name, layer in self.layers.items()
        ]
        out: Tensor = self.model(*args)
        for handle in handles:
            handle.remove()
        return out

    def step(self, n: int | None = None) -> dict[str, list[Array]]:
        """Return what the gradients of each layer must become: of its weight, then of its bias."""
        expected = {}
        for name, layer in self.layers.items():
            weight, *bias = [array(grad).copy() for grad in gradients(layer.layer)]
            expected[name] = layer.step(self.inputs[name], weight, bias[0] if bias else None, n)
            self.inputs[name] = []
        return expected


def gradients(layer: nn.Module) -> list[Tensor]:
    """Gradients of a layer's weight and bias, as far as there are any."""
    found = (layer.get_parameter(name).grad for name, _ in layer.named_parameters(recurse=False))
    return [grad for grad in found if grad is not None]
