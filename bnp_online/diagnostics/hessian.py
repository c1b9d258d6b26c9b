"""Condition of the Hessian of a loss, before and after preconditioning.

With ``ŵ = ŵ₀ + P z / q``, gradient descent in z equals BNP: descent in ŵ with the gradient times ``P Pᵀ /
q²``. The convergence of BNP therefore depends on the Hessian in z, ``Pᵀ ∇²L P / q²``. This module computes it
by two differentiations of the loss as a function of z.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import ConfigurationError
from ..layers import ADAPTERS, LayerAdapter, Observation, damped, transform_
from ..preconditioner import BNP
from .spectra import Array, Spectrum, dense_spectrum, lanczos_spectrum

Loss = Callable[[Tensor, Tensor], Tensor]
Data = tuple[Tensor, Tensor]

#: Maximum number of parameters of a dense Hessian.
DENSE_LIMIT = 2500
#: Rows of a dense Hessian in one computation.
_ROWS = 128


@dataclass(frozen=True)
class Conditioning:
    """Spectra of a Hessian in the parameters and in the preconditioned parameters.

    Attributes
    ----------
    before, after : Spectrum
        Spectra of ``∇²L`` and of ``Pᵀ ∇²L P / q²``.
    """

    before: Spectrum
    after: Spectrum

    def __str__(self) -> str:
        return f"before: {self.before}\nafter:  {self.after}"


def condition_number(
    model: nn.Module,
    loss: Loss,
    data: Data,
    layer: str | None = None,
    *,
    preconditioner: BNP | None = None,
    batch_size: int | None = None,
    dense_limit: int = DENSE_LIMIT,
    seed: int = 0,
) -> Conditioning:
    """Return the condition of the Hessian of a loss, before and after preconditioning.

    Parameters
    ----------
    model : nn.Module
        The model; copied in float64, in its mode (training or evaluation).
    loss : callable
        Returns the mean loss from the output of the model and the targets.
    data : tuple of (Tensor, Tensor)
        Inputs and targets of the loss.
    layer : str, optional
        Name of a layer, as in ``model.named_modules()``: the Hessian in its parameters. None: in all
        parameters that need gradients.
    preconditioner : BNP, optional
        Source of the running moments in P. None: the moments of `data`, with the defaults of BNP.
    batch_size : int, optional
        N ≥ 1 in the scale of the paper, ``q² = max(n/N, 1)``; None: all of `data` is one step.
    dense_limit : int
        Maximum number of parameters for all eigenvalues. Beyond it, Lanczos computes the ends of the
        spectrum and its density, without the smallest nonzero eigenvalue.
    seed : int
        Seed of the random starts of Lanczos.

    Returns
    -------
    Conditioning
        ``.before.condition`` and ``.after.condition`` are the two conditions, None if not computed.

    Raises
    ------
    ConfigurationError
        If there is no such layer, it has no parameters that need gradients, or `batch_size` is below 1.

    Notes
    -----
    The model, its buffers and the preconditioner do not change. Layers that BNP does not cover, or that the
    preconditioner skips, have ``P = I``.

    References
    ----------
    Lange, Helfrich, Ye, JMLR 23(72), 2022: for a loss that is locally, but not strongly, convex, convergence
    depends on the nonzero eigenvalues.

    Examples
    --------
    >>> inputs = torch.linspace(9.0, 11.0, 20)[:, None]  # far from 0: badly conditioned
    >>> found = condition_number(nn.Linear(1, 1), nn.functional.mse_loss, (inputs, 2.0 * inputs))
    >>> round(found.before.condition, -3), round(found.after.condition, 2)
    (28000.0, 1.01)
    """
    both = [
        spectrum(
            model,
            loss,
            data,
            layer,
            preconditioned=preconditioned,
            preconditioner=preconditioner,
            batch_size=batch_size,
            dense_limit=dense_limit,
            seed=seed,
        )
        for preconditioned in (False, True)
    ]
    return Conditioning(*both)


def spectrum(
    model: nn.Module,
    loss: Loss,
    data: Data,
    layer: str | None = None,
    *,
    preconditioned: bool = False,
    preconditioner: BNP | None = None,
    batch_size: int | None = None,
    dense_limit: int = DENSE_LIMIT,
    seed: int = 0,
) -> Spectrum:
    """Return the spectrum of the Hessian of a loss, or of the preconditioned Hessian.

    `condition_number` returns both; its parameters are the same.
    """
    model = deepcopy(model).double()
    inputs, targets = (t.double() if t.is_floating_point() else t for t in data)
    names = _names(model, layer)
    maps = _maps(model, inputs, preconditioner, batch_size) if preconditioned else {}
    hessian = _Hessian(model, loss, (inputs, targets), names, maps)
    if hessian.size <= max(dense_limit, 2):
        return dense_spectrum(hessian.matrix())
    return lanczos_spectrum(hessian.times, hessian.size, seed)


def _names(model: nn.Module, layer: str | None) -> list[str]:
    """Return the names of the parameters of the Hessian."""
    if layer is not None and layer not in dict(model.named_modules()):
        raise ConfigurationError("layer", f"the model has no module named {layer!r}")
    prefix = f"{layer}." if layer else ""
    names = [n for n, p in model.named_parameters() if n.startswith(prefix) and p.requires_grad]
    if not names:
        raise ConfigurationError("layer", "no parameter needs a gradient")
    return names


@dataclass(frozen=True)
class _Map:
    """``z ↦ P z / q`` of one layer."""

    adapter: LayerAdapter
    mean: Tensor
    scale: Tensor
    divisor: float

    def __call__(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        weight, bias = weight.clone(), None if bias is None else bias.clone()
        transform_(weight, bias, self.mean, self.scale, self.divisor, self.adapter.groups)
        return weight, bias


def _maps(
    model: nn.Module, inputs: Tensor, preconditioner: BNP | None, batch_size: int | None
) -> dict[str, _Map]:
    """Return the map of each preconditioned layer, by name."""
    if batch_size is not None and batch_size < 1:
        raise ConfigurationError("batch_size", f"{batch_size} is not at least 1")
    adapters = _adapters(model)
    settings = preconditioner or BNP(nn.Linear(1, 1))
    maps: dict[str, _Map] = {}
    for name, seen in _observe(model, inputs, adapters).items():
        adapter, mean, var = adapters[name], seen.mean, seen.var
        if preconditioner is not None:
            if name not in preconditioner.moments:
                continue
            moments = preconditioner.moments[name]
            mean, var = moments.mean.to(mean), moments.var.to(var)
        spread = var if adapter.bias is not None else var + mean.square()
        scale = damped(spread, settings.eps_rel, settings.eps_abs)
        maps[name] = _Map(adapter, mean, scale, max(adapter.fan_in / (batch_size or seen.samples), 1.0))
    return maps


def _adapters(model: nn.Module) -> dict[str, LayerAdapter]:
    """Return the adapter of every layer that BNP covers, by name."""
    found: dict[str, LayerAdapter] = {}
    for name, module in model.named_modules():
        kind = next((adapter for kind, adapter in ADAPTERS.items() if isinstance(module, kind)), None)
        if kind is not None:
            found[name] = kind(module)
    return found


@torch.no_grad()
def _observe(model: nn.Module, inputs: Tensor, adapters: dict[str, LayerAdapter]) -> dict[str, Observation]:
    """Return the statistics of the inputs of each layer for `inputs`; no buffer changes."""
    seen: dict[str, Observation] = {}

    def watch(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        observation = adapters[name].observe(args[0], patches=False)
        if observation is not None:
            before = seen.get(name)
            samples = observation.samples
            seen[name] = before.pooled(observation, samples=samples) if before else observation

    handles = [
        adapter.module.register_forward_pre_hook(partial(watch, name)) for name, adapter in adapters.items()
    ]
    try:
        functional_call(model, {name: buffer.clone() for name, buffer in model.named_buffers()}, (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    return seen


class _Hessian:
    """Hessian at z = 0 of a loss as a function of z."""

    def __init__(
        self, model: nn.Module, loss: Loss, data: Data, names: list[str], maps: dict[str, _Map]
    ) -> None:
        start = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self._z = {name: torch.zeros_like(start[name], requires_grad=True) for name in names}
        self.size = sum(z.numel() for z in self._z.values())
        moved = {name: start[name] + change for name, change in self._changes(maps).items()}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.enable_grad():
            value = loss(functional_call(model, {**start, **moved, **buffers}, (data[0],)), data[1])
            gradient = torch.autograd.grad(
                value, list(self._z.values()), create_graph=True, materialize_grads=True
            )
            self._gradient = torch.cat([part.reshape(-1) for part in gradient])

    def _changes(self, maps: dict[str, _Map]) -> dict[str, Tensor]:
        """Return ``P z / q`` by name of the parameter."""
        changes: dict[str, Tensor] = dict(self._z)
        for layer, apply in maps.items():
            prefix = f"{layer}." if layer else ""
            weight, bias = self._z.get(f"{prefix}weight"), self._z.get(f"{prefix}bias")
            if weight is not None:
                changes[f"{prefix}weight"], moved = apply(weight, bias)
                if moved is not None:
                    changes[f"{prefix}bias"] = moved
        return changes

    def _product(self, vectors: Tensor, *, batched: bool) -> Tensor:
        """Return the Hessian times a vector of shape (size,), or times each row of (k, size)."""
        if not self._gradient.requires_grad:  # linear in the parameters
            return torch.zeros_like(vectors)
        parts = torch.autograd.grad(
            self._gradient,
            list(self._z.values()),
            vectors,
            retain_graph=True,
            is_grads_batched=batched,
            materialize_grads=True,
        )
        return torch.cat([part.reshape(*vectors.shape[:-1], -1) for part in parts], dim=-1)

    def times(self, vector: Array) -> Array:
        """Return the Hessian times a vector of shape (size,)."""
        product: Array = (
            self._product(torch.from_numpy(vector).to(self._gradient), batched=False).cpu().numpy()
        )
        return product

    def matrix(self) -> Array:
        """Return the Hessian, of shape (size, size)."""
        eye = torch.eye(self.size, dtype=self._gradient.dtype, device=self._gradient.device)
        rows = [self._product(part, batched=True).cpu().numpy() for part in torch.split(eye, _ROWS)]
        return np.concatenate(rows)
