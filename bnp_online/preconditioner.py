"""BNP for any torch model: hooks observe the inputs of its layers, and a step transforms the gradients."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from .errors import ConfigurationError, StateError, UnobservedLayerError, UnsupportedLayerError
from .layers import (
    ADAPTERS,
    LayerAdapter,
    Observation,
    damped,
    pooled_over_processes,
    precondition_,
    statistics_dtype,
    step_divisor,
    transform_,
)
from .moments import RunningMoments
from .parameters import StepScale, check_parameters

#: Normalization layers; BNP leaves their parameters alone.
_NORMALIZATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class _Transform:
    """P and q² of the latest step of a layer."""

    mean: Tensor
    scale: Tensor
    divisor: Tensor | float
    centred: bool


@dataclass
class _Tracked:
    """A layer (or several layers with shared parameters), and the inputs observed since the last step."""

    name: str
    adapter: LayerAdapter
    moments: RunningMoments
    seen: Observation | None = None
    latest: _Transform | None = None  # None if the latest step left the layer alone
    passes: dict[int, int] = field(default_factory=dict)  # number of samples of each forward pass

    def follow(self) -> None:
        """Move the statistics to the device and the precision of the parameters."""
        weight, mean = self.adapter.weight, self.moments.mean
        dtype = statistics_dtype(weight.dtype)
        if weight.device != mean.device or dtype != mean.dtype:
            self.moments.to(weight.device, dtype)
            self.forget()

    def collect(self, observation: Observation, forward_pass: int, grad: Tensor) -> None:
        """Count an input. A tensor hook on the gradient of the layer's output calls this method."""
        before = self.passes.get(forward_pass, 0)
        self.passes[forward_pass] = max(before, observation.samples)
        if self.seen is None:
            self.seen = observation
        else:
            samples = self.seen.samples + self.passes[forward_pass] - before
            self.seen = self.seen.pooled(observation, samples=samples)

    def forget(self) -> None:
        self.seen = None
        self.passes.clear()


class BNP:
    """Batch Normalization Preconditioning of a torch model's gradients.

    Hooks every ``nn.Linear`` and ``nn.Conv1d/2d/3d`` of the model. Between ``loss.backward()`` and
    ``optimizer.step()``, `step` replaces the gradients of these layers by preconditioned ones. The network
    and its predictions do not change.

    An input counts only after a backward pass has reached it. Forward passes in ``eval()`` mode, under
    ``torch.no_grad()``, or without a backward pass leave the statistics unchanged. A pass that activation
    checkpointing repeats counts once. Several backward passes before a `step` (gradient accumulation) count
    as one larger mini-batch. A layer used twice in one forward pass of `model` gets more rows, not more
    samples. `step` ignores a layer without a gradient. For a `DistributedDataParallel` model, `step` pools
    the inputs of all processes: the result is that of one process with the joint mini-batch.

    Parameters
    ----------
    model : nn.Module
        The model; it may be moved to another device or precision afterwards.
    rho : float
        Retention weight ρ of the running statistics, in [0, 1].
    eps_rel : float
        Relative damping of the variances, ≥ 0: ``σ̃² = σ² + eps_rel · max(σ²) + eps_abs``.
    eps_abs : float
        Absolute damping of the variances, ≥ 0, and not 0 if `eps_rel` is 0.
    step_scale : {"paper", "norm", "none"}
        Divisor q²: ``max(n/N, 1)``; the squared norm of the preconditioned inputs, so that one learning rate
        suits every stream; or 1. The norm is exact for groups, strides, dilation and padding.
    skip : collection of str or of module types
        Layers to exclude, by type or by name in ``model.named_modules()``. A name includes the inner layers.

    Attributes
    ----------
    moments : dict of str to RunningMoments
        The statistics by layer name.

    Raises
    ------
    UnsupportedLayerError
        If BNP does not cover the parameters of a layer, and `skip` does not list it: embeddings, fused
        attention, recurrent and transposed layers, parametrized or uninitialized layers, weights tied
        between layers with different biases.
    ConfigurationError
        If an argument is out of range.

    Notes
    -----
    One call of `model` is one forward pass. Construct `BNP` with the module that your code calls
    directly. If the code calls inner modules instead, a second micro-batch counts as further rows of the
    first. For the same reason, checkpointing with ``use_reentrant=True`` needs a backward pass after every
    forward pass. Inputs of discarded gradients count in the next `step`.

    References
    ----------
    Lange, Helfrich, Ye, *Batch Normalization Preconditioning for Neural Network Training*, JMLR 23(72),
    2022, Algorithms 1 and 2.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> pre = BNP(model)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loss = model(torch.ones(3, 4)).square().mean()
    >>> loss.backward()
    >>> pre.step()
    >>> optimizer.step()
    >>> sorted(pre.moments)
    ['0', '2']
    """

    def __init__(
        self,
        model: nn.Module,
        rho: float = 0.99,
        eps_rel: float = 1e-2,
        eps_abs: float = 1e-4,
        step_scale: StepScale = "paper",
        skip: Collection[str | type[nn.Module]] = (),
    ) -> None:
        check_parameters(rho=rho, eps_rel=eps_rel, eps_abs=eps_abs, step_scale=step_scale)
        self.rho = rho
        self.eps_rel = eps_rel
        self.eps_abs = eps_abs
        self.step_scale = step_scale
        self._layers: dict[str, _Tracked] = {}
        self._handles: list[RemovableHandle] = []
        self._pass = 0
        self._track(model, skip)

        self._processes = model.process_group if isinstance(model, DistributedDataParallel) else None

    def _track(self, model: nn.Module, skip: Collection[str | type[nn.Module]]) -> None:
        """Find the layers and hook them; after an error no hook remains."""
        owners: dict[tuple[object, ...], _Tracked] = {}
        watched: dict[nn.Module, tuple[_Tracked, LayerAdapter]] = {}
        for name, module in _walk(model, skip):
            adapter = _adapter(name, module)
            if adapter is None:
                continue
            weight = adapter.weight
            key = (type(adapter), id(weight), id(adapter.bias), adapter.groups)
            if key not in owners:
                owners[key] = self._layers[name] = _Tracked(name, adapter, self._start_moments(adapter))
            watched[module] = owners[key], adapter
        _refuse_tied(model, {module: owner for module, (owner, _) in watched.items()})
        self._handles.append(model.register_forward_pre_hook(self._begin_pass))
        for module, (owner, adapter) in watched.items():
            hook = partial(self._watch, owner, adapter)
            self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def _start_moments(self, adapter: LayerAdapter) -> RunningMoments:
        """Return the initial moments of a layer, on its device."""
        weight = adapter.weight
        dtype = statistics_dtype(weight.dtype)
        return RunningMoments(adapter.channels, self.rho, dtype=dtype, device=weight.device)

    @property
    def moments(self) -> dict[str, RunningMoments]:
        """The running statistics by layer name."""
        return {name: layer.moments for name, layer in self._layers.items()}

    def _begin_pass(self, module: nn.Module, args: object) -> None:
        self._pass += 1

    def _watch(
        self,
        layer: _Tracked,
        adapter: LayerAdapter,
        module: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: Mapping[str, Tensor],
        output: Tensor,
    ) -> None:
        """Observe the input (forward hook); it counts when the gradient of the output arrives."""
        if not (module.training and torch.is_grad_enabled() and output.requires_grad):
            return
        if not isinstance(module.weight, nn.Parameter):  # torch.func.functional_call with other weights
            return
        layer.follow()
        with torch.no_grad():
            x = (args[0] if args else kwargs["input"]).detach().to(layer.moments.mean.dtype)
            observation = adapter.observe(x, patches=self.step_scale == "norm")
        if observation is not None:
            collect = partial(layer.collect, observation, self._pass)
            output.register_hook(collect)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    @torch.no_grad()
    def step(self) -> None:
        """Update the statistics with the inputs since the last step, then transform ``.grad`` in place.

        Call it once between ``backward()`` and ``optimizer.step()``. With a gradient scaler, call it before
        or after ``unscale_``: the transform is linear, and overflowed inputs do not count.

        Raises
        ------
        UnobservedLayerError
            If a layer has a gradient, but no observed input: it ran in ``eval()`` mode, or another module
            used its weight without calling it. No gradient and no statistic has changed.
        """
        if self._processes is not None:
            self._pool_processes(self._processes)
        for layer in self._layers.values():
            grad = layer.adapter.weight.grad
            if layer.seen is None and grad is not None and bool(grad.count_nonzero()):
                raise UnobservedLayerError(
                    f"{layer.name or 'the model'} has a gradient, but no observed input: it ran in "
                    f"eval() mode, or another module used its weight without calling it. List it in skip to "
                    f"leave it alone"
                )
        for layer in self._layers.values():
            layer.latest = None
            if layer.seen is not None and layer.adapter.weight.grad is not None:
                self._step_layer(layer, layer.seen, layer.adapter.weight.grad)
            layer.forget()

    def _pool_processes(self, group: ProcessGroup) -> None:
        """Pool the inputs of all processes, as `DistributedDataParallel` averages their gradients."""
        layers = [*self._layers.values()]
        moments = [layer.moments for layer in layers]
        pooled = pooled_over_processes([layer.seen for layer in layers], moments, group)
        for layer, seen in zip(layers, pooled, strict=True):
            layer.seen = seen

    def _step_layer(self, layer: _Tracked, seen: Observation, weight_grad: Tensor) -> None:
        moments, adapter = layer.moments, layer.adapter
        _update(moments, seen)
        bias = adapter.bias
        bias_grad = None if bias is None else bias.grad
        if bias_grad is None:
            mean, scale = torch.zeros_like(moments.mean), moments.second_moment
        else:
            mean, scale = moments.mean, moments.var
        scale = damped(scale, self.eps_rel, self.eps_abs)
        divisor = step_divisor(adapter, seen, mean, scale, self.step_scale, bias=bias_grad is not None)
        precondition_(weight_grad, bias_grad, mean, scale, divisor, adapter.groups)
        layer.latest = _Transform(mean, scale, divisor, bias_grad is not None)

    @torch.no_grad()
    def shape_noise(self, noise: Mapping[nn.Parameter, Tensor]) -> None:
        """Multiply white noise for the layers' parameters by ``P / q`` of the latest `step`, in place.

        Its covariance becomes ``P Pᵀ / q²``, the factor of the gradients in that step: see
        `bnp_online.contrib.langevin`. The noise of a layer without a gradient becomes 0. The noise of
        parameters that BNP does not cover does not change.

        Parameters
        ----------
        noise : dict of Parameter to Tensor
            Noise of the shape of the parameter, at least float32.
        """
        for layer in self._layers.values():
            weight, bias = noise.get(layer.adapter.weight), None
            if layer.adapter.bias is not None:
                bias = noise.get(layer.adapter.bias)
            if layer.latest is None or weight is None:
                for unused in (weight, bias):
                    if unused is not None:
                        unused.zero_()
                continue
            p = layer.latest
            bias = bias if p.centred else None
            transform_(weight, bias, p.mean, p.scale, p.divisor, layer.adapter.groups)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the preconditioned layers."""
        for layer in self._layers.values():
            yield layer.adapter.weight
            if layer.adapter.bias is not None:
                yield layer.adapter.bias

    def remove(self) -> None:
        """Remove the hooks from the model; the statistics remain readable."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the running statistics by layer name."""
        return {name: moments.state_dict() for name, moments in self.moments.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Load statistics from `state_dict`.

        Raises
        ------
        StateError
            If layers are missing or unknown, or shapes differ; nothing has changed.
        """
        missing, unknown = self._layers.keys() - state.keys(), state.keys() - self._layers.keys()
        if missing or unknown:
            raise StateError(f"layers missing: {sorted(missing)}; unknown: {sorted(unknown)}")
        before = self.state_dict()
        try:
            for name, moments in self.moments.items():
                moments.load_state_dict(state[name])
        except StateError:
            for name, moments in self.moments.items():
                moments.load_state_dict(before[name])
            raise
        for layer in self._layers.values():
            layer.forget()

    def __repr__(self) -> str:
        return f"BNP({len(self._layers)} layers, rho={self.rho}, step_scale={self.step_scale!r})"


def _update(moments: RunningMoments, seen: Observation) -> None:
    """Update the moments; inputs that are not finite (mixed-precision overflow) leave them unchanged."""
    finite = seen.var.sum() < math.inf  # not finite if any input is not
    mean = torch.where(finite, seen.mean, moments.mean)
    var = torch.where(finite, seen.var, moments.var)
    moments.update_from(mean, var)


def _walk(model: nn.Module, skip: Collection[str | type[nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that `skip` does not cover; raise for a name without a module."""
    names = {entry for entry in skip if isinstance(entry, str)}
    types = tuple(entry for entry in skip if isinstance(entry, type))
    if isinstance(skip, str) or len(names) + len(types) < len(set(skip)):
        raise ConfigurationError("skip", "must be a collection of names and types of modules")
    unknown = names - dict(model.named_modules(remove_duplicate=False)).keys()
    if unknown:
        raise ConfigurationError("skip", f"the model has no module named {sorted(unknown)}")
    skipped: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if name in names or isinstance(module, types):
            skipped.update(module.modules())
    for name, module in model.named_modules():
        if module not in skipped:
            yield name, module


def _adapter(name: str, module: nn.Module) -> LayerAdapter | None:
    """Return the adapter of a layer; None for a layer without parameters to precondition."""
    where = f"{name or 'the model'} ({type(module).__name__})"
    if parametrize.is_parametrized(module):
        raise UnsupportedLayerError(f"{where} is parametrized: list it in skip")
    own = dict(module.named_parameters(recurse=False))
    if not own or isinstance(module, _NORMALIZATIONS):
        return None
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in own.values()):
        raise UnsupportedLayerError(f"{where} is not initialized: pass one batch through the model first")
    adapter = next((a for kind, a in ADAPTERS.items() if isinstance(module, kind)), None)
    real = all(parameter.is_floating_point() for parameter in own.values())
    if adapter is None or not real or "weight" not in own or own.keys() - {"weight", "bias"}:
        raise UnsupportedLayerError(
            f"{where} has parameters that BNP does not cover: list it in skip to train it without BNP"
        )
    return adapter(module)


def _refuse_tied(model: nn.Module, watched: Mapping[nn.Module, _Tracked]) -> None:
    """Raise if a watched layer shares a parameter with a module outside its `_Tracked`."""
    owners: dict[int, _Tracked] = {}
    for owner in watched.values():
        for parameter in owner.adapter.module.parameters(recurse=False):
            owners.setdefault(id(parameter), owner)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            found = owners.get(id(parameter))
            if found is not None and found is not watched.get(module):
                raise UnsupportedLayerError(
                    f"{found.name} shares a parameter with {name} ({type(module).__name__}); BNP cannot "
                    f"treat them as one layer: list both in skip"
                )
