"""Layers that BNP preconditions: one adapter for each kind, and the transform as a pure function.

To support another kind of layer, write a `LayerAdapter` and list it in `ADAPTERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from .moments import RunningMoments, mean_and_variance, pool
from .parameters import StepScale

#: Counts and tensors of an `Observation`.
_COUNTS, _PARTS = 3, 4


@dataclass(frozen=True)
class Observation:
    """Statistics of the inputs of a layer in one step.

    Attributes
    ----------
    samples : int
        N, the number of samples in the mean of the loss.
    positions, rows : int
        Number of vectors behind `mean` and `var`, and number of rows of the extended input matrix Ĥ.
    mean, var : Tensor of shape (n,)
        Mean and biased variance of each feature or channel.
    patch_mean, patch_var : Tensor of shape (n,)
        The same over the entries of Ĥ, where a convolution repeats and pads its input.
    """

    samples: int
    positions: int
    rows: int
    mean: Tensor
    var: Tensor
    patch_mean: Tensor
    patch_var: Tensor

    def pooled(self, other: Observation, *, samples: int) -> Observation:
        """Return the joint statistics of two calls, which have `samples` samples in total."""
        _, mean, var = pool((self.positions, self.mean, self.var), (other.positions, other.mean, other.var))
        _, patch_mean, patch_var = pool(
            (self.rows, self.patch_mean, self.patch_var), (other.rows, other.patch_mean, other.patch_var)
        )
        positions, rows = self.positions + other.positions, self.rows + other.rows
        return Observation(samples, positions, rows, mean, var, patch_mean, patch_var)


def pooled_over_processes(
    seen: Sequence[Observation | None], moments: Sequence[RunningMoments], group: ProcessGroup
) -> list[Observation | None]:
    """Return the joint statistics of the inputs of all processes of a group, the same in each process.

    Parameters
    ----------
    seen : sequence of Observation or None
        Inputs of this process, by layer; None for a layer without inputs.
    moments : sequence of RunningMoments
        Statistics by layer, for shapes, device and precision.
    group : ProcessGroup or None
    group : ProcessGroup
        The processes.
    """
    own = torch.cat([_flattened(each, known) for each, known in zip(seen, moments, strict=True)])
    received = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(received, own, group=group)
    sizes = [_COUNTS + _PARTS * known.mean.numel() for known in moments]
    joint = []
    for rows, known in zip(
        zip(*(torch.split(part, sizes) for part in received), strict=True), moments, strict=True
    ):
        found = [_unflattened(row, known) for row in rows]
        # In order of rank, so that all processes round in the same way.
        both = reduce(lambda one, other: one.pooled(other, samples=one.samples + other.samples), found)
        joint.append(both if both.samples else None)
    return joint


def _flattened(seen: Observation | None, known: RunningMoments) -> Tensor:
    """Return counts and statistics in one vector of float64, which holds both exactly."""
    if seen is None:
        return known.mean.new_zeros(_COUNTS + _PARTS * known.mean.numel(), dtype=torch.float64)
    counts = known.mean.new_tensor([seen.samples, seen.positions, seen.rows], dtype=torch.float64)
    return torch.cat([counts, seen.mean, seen.var, seen.patch_mean, seen.patch_var])


def _unflattened(row: Tensor, known: RunningMoments) -> Observation:
    samples, positions, rows = (int(count) for count in row[:_COUNTS].tolist())
    return Observation(samples, positions, rows, *row[_COUNTS:].to(known.mean.dtype).chunk(_PARTS))


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of the statistics for parameters of `dtype`, at least float32."""
    return torch.promote_types(dtype, torch.float32)


class LayerAdapter(ABC):
    """Parameters and inputs of one layer, as BNP uses them.

    Parameters
    ----------
    module : nn.Module
        The layer.
    """

    groups: int = 1

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def weight(self) -> nn.Parameter:
        """Weight of the layer, of shape (outputs, inputs / groups, *kernel)."""
        return cast(nn.Parameter, self.module.weight)  # BNP takes only layers that have one

    @property
    def bias(self) -> nn.Parameter | None:
        """Bias of the layer, of shape (outputs,)."""
        return cast("nn.Parameter | None", self.module.bias)

    @property
    def channels(self) -> int:
        """Number of features or channels that have statistics."""
        return self.weight.shape[1] * self.groups

    @property
    def fan_in(self) -> int:
        """Number n of columns of the input matrix H."""
        return prod(self.weight.shape[1:])

    @property
    def kernel_size(self) -> int:
        """Number of columns of H that share the statistics of one channel."""
        return prod(self.weight.shape[2:])

    @abstractmethod
    def observe(self, x: Tensor, *, patches: bool) -> Observation | None:
        """Describe an input of the layer; None if it is empty.

        Parameters
        ----------
        x : Tensor
            Input of the layer.
        patches : bool
            Whether to compute `patch_mean` and `patch_var`.
        """


class LinearAdapter(LayerAdapter):
    """``nn.Linear`` on inputs of shape (n,), (N, n) or (N, …, n): every vector is a sample."""

    def observe(self, x: Tensor, *, patches: bool) -> Observation | None:
        """Describe the rows of `x`."""
        count = prod(x.shape[:-1])
        if count == 0:
            return None
        rows = x.reshape(count, x.shape[-1])
        if rows.numel() == 0:  # no features yet: torch warns of a variance of nothing
            mean = var = rows[0]
        else:
            mean, var = mean_and_variance(rows, [0])
        return Observation(count, count, count, mean, var, mean, var)


class ConvAdapter(LayerAdapter):
    """``nn.Conv1d``, ``Conv2d`` and ``Conv3d``: statistics by channel of the unpadded input."""

    def __init__(self, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        super().__init__(module)
        self.conv = module
        self.groups = module.groups
        self._coverage: tuple[Tensor, int] | None = None

    def observe(self, x: Tensor, *, patches: bool) -> Observation | None:
        """Describe the channels of `x`, of shape (N, channels, *size) or (channels, *size)."""
        spatial = len(self.conv.kernel_size)
        if x.dim() == spatial + 1:
            x = x.unsqueeze(0)
        if x.numel() == 0:
            return None
        dims = [0, *range(2, x.dim())]
        mean, var = mean_and_variance(x, dims)
        samples, positions = x.shape[0], x.numel() // x.shape[1]
        if not patches:
            return Observation(samples, positions, samples, mean, var, mean, var)
        padded = self._pad(x)
        coverage, total = self._cover(padded)
        entries = samples * total
        patch_mean = (padded * coverage).sum(dims) / entries
        centred = padded - patch_mean.view(1, -1, *[1] * spatial)
        patch_var = (centred.square() * coverage).sum(dims) / entries
        rows = entries // self.kernel_size
        return Observation(samples, positions, rows, mean, var, patch_mean, patch_var)

    def _pad(self, x: Tensor) -> Tensor:
        """Pad `x` as the layer does."""
        conv = self.conv
        amounts: list[int] = []
        for i in reversed(range(len(conv.kernel_size))):  # F.pad begins with the last dimension
            if conv.padding == "same":
                total = conv.dilation[i] * (conv.kernel_size[i] - 1)
                amounts += [total // 2, total - total // 2]
            elif conv.padding == "valid":
                amounts += [0, 0]
            else:
                amounts += [int(conv.padding[i])] * 2
        if not any(amounts):
            return x
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        return F.pad(x, amounts, mode=mode)

    def _cover(self, padded: Tensor) -> tuple[Tensor, int]:
        """Return the number of patches over each padded position, of shape (1, 1, *size), and their sum."""
        if self._coverage is not None:
            counts, total = self._coverage
            if counts.shape[2:] == padded.shape[2:] and counts.to(padded) is counts:
                return counts, total
        # Counted on the CPU, once for each input size: not every device has bincount.
        conv, total = self.conv, 1
        counts = torch.ones(1, 1, *padded.shape[2:], dtype=padded.dtype, device=padded.device)
        for i, (kernel, stride, dilation) in enumerate(
            zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        ):
            size = padded.shape[2 + i]
            starts = torch.arange(0, size - dilation * (kernel - 1), stride)
            offsets = dilation * torch.arange(kernel)
            total *= starts.numel() * kernel
            along = torch.bincount((starts[:, None] + offsets).flatten(), minlength=size).to(padded)
            counts = counts * along.view(-1, *[1] * (len(conv.kernel_size) - 1 - i))
        self._coverage = counts, total
        return self._coverage


ADAPTERS: dict[type[nn.Module], type[LayerAdapter]] = {
    nn.Linear: LinearAdapter,
    nn.Conv1d: ConvAdapter,
    nn.Conv2d: ConvAdapter,
    nn.Conv3d: ConvAdapter,
}


def damped(scale: Tensor, eps_rel: float, eps_abs: float) -> Tensor:
    """Return ``σ̃² = σ² + ε_rel · max(σ²) + ε_abs`` for variances (or second moments) of shape (n,)."""
    if scale.numel() == 0:
        return scale.clone()
    return torch.add(scale, scale.max(), alpha=eps_rel).add_(eps_abs)


def step_divisor(
    adapter: LayerAdapter, seen: Observation, mean: Tensor, scale: Tensor, kind: StepScale, *, bias: bool
) -> Tensor | float:
    """Return q², the divisor of the preconditioned gradient.

    Parameters
    ----------
    adapter : LayerAdapter
        The layer.
    seen : Observation
        Inputs of this step.
    mean, scale : Tensor of shape (n,)
        Centre μ (zeros for a layer without bias) and damped scale σ̃².
    kind : {"paper", "norm", "none"}
        ``max(n/N, 1)``; ``max(‖G‖_F² / (N · rows), 1)`` with ``G = [e, (H − e μᵀ) diag(1/σ̃)]``, averaged
        over groups; or 1.
    bias : bool
        Whether G has the column e.
    """
    if kind == "none":
        return 1.0
    if kind == "paper":
        return max(adapter.fan_in / seen.samples, 1.0)
    squares = (seen.patch_var + (seen.patch_mean - mean).square()).div(scale).sum()
    row = squares * (adapter.kernel_size / adapter.groups) + (1.0 if bias else 0.0)
    # ‖G‖_F² is rows · row: the sums over rows cancel.
    return torch.clamp(row / seen.samples, min=1.0)


def precondition_(
    weight_grad: Tensor,
    bias_grad: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    divisor: Tensor | float,
    groups: int = 1,
) -> None:
    """Multiply a layer's gradient by ``P Pᵀ / q²``, in place.

    ``G_w ← (G_w − G_b μᵀ) / σ̃²``, then ``G_b ← G_b − G_w μ``, both divided by q². Without a bias the columns
    cannot be centred and ``P = D``.

    Parameters
    ----------
    weight_grad : Tensor of shape (outputs, n / groups, *kernel)
        Gradient of the weight.
    bias_grad : Tensor of shape (outputs,) or None
        Gradient of the bias.
    mean, scale : Tensor of shape (n,)
        μ and σ̃² of each feature or channel.
    divisor : Tensor or float
        q² ≥ 1.
    groups : int
        Groups of a convolution.

    References
    ----------
    Lange, Helfrich, Ye, JMLR 23(72), 2022, Algorithm 1.
    """
    if weight_grad.dtype != scale.dtype:  # half precision: compute in the statistics' precision
        wide_weight = weight_grad.to(scale.dtype)
        wide_bias = None if bias_grad is None else bias_grad.to(scale.dtype)
        precondition_(wide_weight, wide_bias, mean, scale, divisor, groups)
        weight_grad.copy_(wide_weight)
        if bias_grad is not None and wide_bias is not None:
            bias_grad.copy_(wide_bias)
        return
    if weight_grad.dim() == 2:
        if bias_grad is None:
            weight_grad.div_(scale * divisor)
            return
        weight_grad.addr_(bias_grad, mean, alpha=-1).div_(scale * divisor)
        bias_grad.div_(divisor).addmv_(weight_grad, mean, alpha=-1)
        return
    scale, mean = (_by_output(t, weight_grad, groups) for t in (scale * divisor, mean))
    if bias_grad is None:
        weight_grad.div_(scale)
        return
    weight_grad.sub_(bias_grad.view(-1, *[1] * (mean.dim() - 1)) * mean).div_(scale)
    over_kernel = weight_grad.flatten(2).sum(2)
    bias_grad.div_(divisor).sub_((over_kernel * mean.flatten(1)).sum(1))


def transform_(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    divisor: Tensor | float,
    groups: int = 1,
) -> None:
    """Multiply a layer's intrinsic coordinates by ``P / q``, in place.

    ``z_w ← z_w / σ̃``, then ``z_b ← z_b − z_w μ``, all divided by q; without a bias ``P = D``. White noise
    becomes noise with the covariance ``P Pᵀ / q²``, the factor of gradients in `precondition_`.

    Parameters
    ----------
    weight : Tensor of shape (outputs, n / groups, *kernel)
        z_w, in the precision of the statistics.
    bias : Tensor of shape (outputs,) or None
        z_b.
    mean, scale, divisor, groups
        μ, σ̃², q² and the groups, as for `precondition_`.

    References
    ----------
    Lange, Deng, Ye, Lin, *Batch normalization preconditioning for stochastic gradient Langevin dynamics*,
    J. Mach. Learn. 2(1), 2023.
    """
    root = torch.as_tensor(divisor, dtype=scale.dtype, device=scale.device).sqrt()
    deviation, mean = (_by_output(t, weight, groups) for t in (scale.sqrt() * root, mean))
    weight.div_(deviation)
    if bias is not None:
        over_kernel = weight.reshape(*weight.shape[:2], -1).sum(2)
        bias.div_(root).sub_((over_kernel * mean.flatten(1)).sum(1))


def _by_output(channels: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Reshape values by channel, of shape (n,), to broadcast over a weight: (outputs or 1, columns, 1, …)."""
    outputs, columns = weight.shape[:2]
    rows = channels.view(groups, columns)
    if groups > 1:
        rows = rows.repeat_interleave(outputs // groups, dim=0)
    return rows.view(-1, columns, *[1] * (weight.dim() - 2))
