"""Networks with growing inputs and outputs: growth does not change existing outputs."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import ConfigurationError
from .layer_list import Layer, read_layers

#: Seed of a learner and number of the member.
Seed: TypeAlias = tuple[int, int]

#: Channels of the two convolutions of `cnn`.
_CHANNELS = (16, 32)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def draw_uniform(count: int, bound: float, *key: str | int) -> Tensor:
    """Draw float32 numbers, uniform in ±bound, that depend on `key` alone.

    The generator is SHAKE-128 of the key. The numbers of a feature depend on its name and the seed, not on
    earlier draws or on the version of a library.
    """
    return torch.from_numpy(_spread(_bits(count, *key), bound))


def _bits(count: int, *key: str | int) -> NDArray[np.uint32]:
    text = "\x1f".join(map(str, key)).encode("utf-8", "surrogatepass")
    return np.frombuffer(hashlib.shake_128(text).digest(4 * count), dtype="<u4")


def _spread(bits: NDArray[np.uint32], bound: float) -> NDArray[np.float32]:
    """Convert words of 32 random bits to numbers uniform in ±bound."""
    return (((bits + 0.5) / 2**31 - 1.0) * bound).astype(np.float32)


def entry_start(seed: Seed, names: Sequence[str], width: int) -> tuple[Tensor, Tensor]:
    """Draw the first layer for the first sample's features, uniform in ±1/√fan_in: each column by its name.

    Returns
    -------
    Tensor of shape (width, len(names)), Tensor of shape (width,)
        Weight and bias.
    """
    bound = 1.0 / math.sqrt(max(len(names), 1))
    bits = np.empty((width, len(names)), np.uint32)
    for i, name in enumerate(names):
        bits[:, i] = _bits(width, *seed, "input", name)
    return torch.from_numpy(_spread(bits, bound)), draw_uniform(width, bound, *seed, "input bias")


class Network(nn.Module):
    """Network of a body, which computes features, and a linear head with one row for each output.

    Parameters
    ----------
    body : nn.Module
        Maps (N, *input shape) to (N, features).
    head : nn.Linear
        Maps the features to the outputs; its rows start at zero, and so does each row added later.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (logits or predictions) for `x` of shape (N, *input shape)."""
        out: Tensor = self.head(self.body(x))
        return out

    @torch.no_grad()
    def grow_outputs(self, count: int) -> None:
        """Append outputs with zero weights; their bias is the lowest existing one, 0 for the first."""
        weight, bias = self.head.weight, self.head.bias
        low = bias.min() if len(bias) else bias.new_zeros(())
        rows = weight.new_zeros(count, weight.shape[1])
        _resize(self.head, torch.cat([weight, rows]), torch.cat([bias, low.expand(count)]))


def _resize(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.out_features, layer.in_features = weight.shape
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)


@torch.no_grad()
def _start(module: nn.Module, seed: Seed) -> None:
    """Draw every weight and bias uniformly from ±1/√fan_in."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for kind, parameter in layer.named_parameters(recurse=False):
                parameter.copy_(_start_of(name, kind, parameter.shape, layer.weight.shape, seed))


def _start_of(layer: str, kind: str, shape: Sequence[int], weight_shape: Sequence[int], seed: Seed) -> Tensor:
    """Draw the weight or the bias of a layer uniformly from ±1/√fan_in."""
    bound = 1.0 / math.sqrt(max(math.prod(weight_shape[1:]), 1))
    return draw_uniform(math.prod(shape), bound, *seed, layer, kind).view(*shape)


def mlp_start(hidden: Sequence[int], seed: Seed, inputs: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the names of the hidden layers' parameters in `mlp`, and their values; creates no network."""
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise([inputs, *hidden])):
        layer, weight = str(1 + 2 * i), (fan_out, fan_in)  # as in the body of `mlp`
        for kind, shape in (("weight", weight), ("bias", (fan_out,))):
            yield f"body.{layer}.{kind}", _start_of(layer, kind, shape, weight, seed)


def _linear(fan_in: int, fan_out: int) -> nn.Linear:
    """Return a layer with undrawn parameters; it may have no inputs or outputs."""
    layer = nn.Linear(1, 1, device="meta")
    _resize(layer, torch.empty(fan_out, fan_in), torch.empty(fan_out))
    return layer


def _convolution(channels: int, wide: int) -> nn.Conv2d:
    """Return a 3×3 layer with undrawn parameters."""
    return _undrawn(nn.Conv2d(channels, wide, 3, padding=1, device="meta"))


def _undrawn(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution on the device "meta" with undrawn parameters."""
    # ``to_empty`` would do the same, and import sympy for it: a third as long as importing torch.
    layer.weight = nn.Parameter(torch.empty(layer.weight.shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.empty(layer.bias.shape))
    return layer


def _dense(sizes: Sequence[int], activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [_linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return layers


def mlp(hidden: Sequence[int], activation: str, seed: Seed, inputs: int = 0) -> Network:
    """Return a multilayer perceptron without outputs; ``hidden=()`` is the linear model.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers.
    activation : {"relu", "tanh", "gelu"}
        Nonlinearity between layers.
    seed : int
        Seed of the initial values.
    inputs : int
        Number of inputs after flattening; 0 if the engine adds columns later (`entry_start`).
    """
    sizes = [inputs, *hidden]
    body = nn.Sequential(nn.Flatten(), *_dense(sizes, activation))
    head = _linear(sizes[-1], 0)
    _start(body, seed)
    return Network(body, head)


def sizes_of_cnn(shape: Sequence[int]) -> tuple[int, int]:
    """Return the number of features of the convolutions of `cnn`, and of their weights and biases.

    Raises
    ------
    ConfigurationError
        If the shape is not one of images of at least 4 by 4.
    """
    if len(shape) not in (2, 3) or min(shape[-2:]) < 4:
        raise ConfigurationError(
            "input_shape",
            f"network='cnn' needs (height, width) or (channels, height, width) ≥ 4, not {tuple(shape)}",
        )
    channels = [shape[0] if len(shape) == 3 else 1, *_CHANNELS]
    parameters = sum(9 * n * m + m for n, m in itertools.pairwise(channels))
    return channels[-1] * (shape[-2] // 4) * (shape[-1] // 4), parameters


def cnn(shape: Sequence[int], hidden: Sequence[int], activation: str, seed: Seed) -> Network:
    """Return a small convolutional network without outputs.

    Two 3×3 convolutions of 16 and 32 channels, each followed by the activation and a 2×2 maximum, then dense
    layers of the widths `hidden`.

    Parameters
    ----------
    shape : sequence of int
        (height, width) or (channels, height, width), height and width ≥ 4.
    """
    flat, _ = sizes_of_cnn(shape)
    channels = shape[0] if len(shape) == 3 else 1
    layers: list[nn.Module] = [] if len(shape) == 3 else [nn.Unflatten(1, (1, shape[0]))]
    for wide in _CHANNELS:
        layers += [
            _convolution(channels, wide),
            ACTIVATIONS[activation](),
            nn.MaxPool2d(2),
        ]
        channels = wide
    body = nn.Sequential(*layers, nn.Flatten(), *_dense([flat, *hidden], activation))
    _start(body, seed)
    head = _linear(hidden[-1] if hidden else flat, 0)
    return Network(body, head)


class Residual(nn.Module):
    """Sum of two branches.

    Parameters
    ----------
    body, shortcut : nn.Module
        The branches; both have the input of this layer.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the outputs of both branches."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class GlobalPool(nn.Module):
    """Mean or maximum of each channel; unlike torch's adaptive pools it has the same bits twice on a GPU.

    Parameters
    ----------
    mean : bool
        Whether to take the mean.
    """

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of an image, of shape (N, channels, 1, 1)."""
        return x.mean((2, 3), keepdim=True) if self.mean else x.amax((2, 3), keepdim=True)


def from_layers(layers: Sequence[object], shape: Sequence[int], seed: Seed) -> Network:
    """Return the network of a list of layers, without outputs.

    Weights and biases are drawn as in the other networks, from ±1/√fan_in. Normalizations start with the
    scale 1 and the shift 0.

    Parameters
    ----------
    layers : sequence
        The layers; see `bnp_online.layer_list`.
    shape : sequence of int
        Shape of one input. An image of (height, width) has one channel.

    Raises
    ------
    ConfigurationError
        If a layer is not valid.
    """
    read = read_layers(layers, shape)
    start: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))] if len(shape) == 2 else []
    body = nn.Sequential(*start, *map(_module, read))
    _start(body, seed)
    return Network(body, _linear(read[-1].after[0], 0))


def _module(layer: Layer) -> nn.Module:
    """Return the module of a layer, with undrawn weights."""
    if layer.kind in ACTIVATIONS:
        return ACTIVATIONS[layer.kind]()
    if layer.kind == "flatten":
        return nn.Flatten()
    if layer.kind == "dense":
        dense = _linear(layer.before[0], layer.after[0])
        if not layer.bias:
            dense.register_parameter("bias", None)
        return dense
    if layer.kind == "conv":
        channels, sizes = (layer.before[0], layer.after[0]), (layer.kernel, layer.stride, layer.padding)
        conv = nn.Conv2d(*channels, *sizes, groups=layer.groups, bias=layer.bias, device="meta")
        return _undrawn(conv)
    if layer.kind == "pool":
        if layer.kernel == layer.before[1:]:
            return GlobalPool(mean=layer.mean)
        return nn.AvgPool2d(layer.kernel) if layer.mean else nn.MaxPool2d(layer.kernel)
    if layer.kind == "norm":
        return nn.GroupNorm(layer.groups, layer.before[0])
    branches = (nn.Sequential(*map(_module, branch)) for branch in (layer.layers, layer.shortcut))
    return Residual(*branches)


def with_head(body: nn.Module, shape: Sequence[int]) -> Network:
    """Return a copy of a module with a linear head.

    Parameters
    ----------
    body : nn.Module
        Maps (N, *shape) to (N, features); copied with its weights.
    shape : sequence of int
        Shape of one input.
    """
    body = copy.deepcopy(body)
    training = body.training
    with torch.no_grad():
        features = body.eval()(torch.zeros(1, *shape))
    body.train(training)
    if not isinstance(features, Tensor) or features.dim() != 2:
        raise ConfigurationError("network", "a module must map (N, *input_shape) to a tensor (N, features)")
    return Network(body, _linear(features.shape[1], 0))
