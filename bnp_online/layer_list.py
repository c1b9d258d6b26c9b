"""Networks as lists of layers: validation, shapes and sizes.

A list is plain JSON. `read_layers` checks it for an input shape, and returns the layers with the shape before
and after each. `bnp_online.network.from_layers` builds the modules. This module imports neither NumPy nor
PyTorch.

Examples
--------
>>> layers = read_layers([{"conv": 8, "kernel": 3}, "relu", {"pool": 2}, "flatten"], (1, 8, 8))
>>> [layer.after for layer in layers]
[(8, 8, 8), (8, 8, 8), (8, 4, 4), (128,)]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

from .errors import ConfigurationError

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]

#: Layers without settings.
ACTIVATION_NAMES = ("relu", "tanh", "gelu")
#: Settings of each other kind of layer, after the one that names the kind.
SETTINGS: dict[str, tuple[str, ...]] = {
    "conv": ("kernel", "stride", "padding", "groups", "bias"),
    "dense": ("bias",),
    "pool": ("kind",),
    "norm": ("groups",),
    "residual": ("shortcut",),
}
#: Greatest number of layers, of residual layers inside each other, of channels or outputs of a layer, and of
#: positions of a kernel along an axis.
MOST_LAYERS, MOST_DEPTH, MOST_WIDTH, MOST_KERNEL = 256, 8, 65_536, 255
#: Greatest number of values that all layers compute for a sample: a step keeps them.
MOST_VALUES = 2**26


class Layer(NamedTuple):
    """Layer of a checked list.

    Attributes
    ----------
    kind : str
        ``"conv"``, ``"dense"``, ``"pool"``, ``"norm"``, ``"residual"``, ``"flatten"``, or an activation.
    before, after : tuple of int
        Shape of an input and of an output: (channels, height, width), or (features,).
    kernel, stride, padding : tuple of (int, int)
        Of a convolution or a pool.
    groups : int
        Of a convolution or a normalization.
    bias : bool
        Whether a convolution or a dense layer has a bias.
    mean : bool
        Whether a pool takes the mean, not the maximum.
    layers, shortcut : tuple of Layer
        The two branches of a residual layer; without layers in the shortcut it is the input.
    """

    kind: str
    before: Shape
    after: Shape
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    bias: bool = True
    mean: bool = False
    layers: tuple[Layer, ...] = ()
    shortcut: tuple[Layer, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        if self.kind == "residual":
            return sum(layer.parameters for layer in (*self.layers, *self.shortcut))
        if self.kind == "norm":
            return 2 * self.before[0]
        if self.kind not in ("conv", "dense"):
            return 0
        fan_in = self.before[0] // self.groups * math.prod(self.kernel)
        return self.after[0] * (fan_in + self.bias)

    @property
    def values(self) -> int:
        """Number of values that the layer computes for a sample."""
        inner = sum(layer.values for layer in (*self.layers, *self.shortcut))
        return math.prod(self.after) + inner


def start_shape(input_shape: Sequence[int]) -> Shape:
    """Return the shape before the first layer: an image of (height, width) has one channel."""
    return (1, *input_shape) if len(input_shape) == 2 else tuple(input_shape)


def as_json(value: Any) -> Any:
    """Return a list of layers as JSON has it: tuples are lists, and whole numbers are integers."""
    if isinstance(value, Mapping):
        return {key: as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    return int(value) if _is_whole(value) else value


def read_layers(network: Sequence[Any], input_shape: Sequence[int]) -> tuple[Layer, ...]:
    """Return the layers of a list, with their shapes.

    Parameters
    ----------
    network : sequence
        The layers, as in the parameter `network` of an estimator.
    input_shape : sequence of int
        Shape of an input.

    Raises
    ------
    ConfigurationError
        If a layer is not valid; its field names the layer, such as ``network[3].residual[0].kernel``.
    """
    if (depth := _depth(network)) > MOST_DEPTH + 1:
        raise ConfigurationError(
            "network", f"has lists inside each other {depth} times: at most {MOST_DEPTH + 1} are possible"
        )
    if (count := _count(network)) > MOST_LAYERS:
        raise ConfigurationError("network", f"has {count} layers: use at most {MOST_LAYERS}")
    layers = _read_list(network, start_shape(input_shape), "network")
    after = layers[-1].after
    if len(after) != 1:
        raise ConfigurationError(
            "network",
            f'ends with the shape {_text(after)}: add "flatten" at the end, or {{"pool": "global"}} and '
            '"flatten"',
        )
    if (values := sum(layer.values for layer in layers)) > MOST_VALUES:
        raise ConfigurationError(
            "network",
            f"computes {values} values for a sample, and the limit is {MOST_VALUES}: use fewer channels, or "
            'a stride or {"pool": 2} early',
        )
    return layers


def count_parameters(network: Sequence[Any], input_shape: Sequence[int]) -> tuple[int, int]:
    """Return the number of features after the last layer, and of all weights and biases; raises as above."""
    layers = read_layers(network, input_shape)
    return layers[-1].after[0], sum(layer.parameters for layer in layers)


def _lists(network: Any) -> Iterator[Any]:
    """Yield the lists that may be layers inside the layers of a list."""
    for entry in network if isinstance(network, list | tuple) else ():
        if isinstance(entry, Mapping):
            yield from (entry[key] for key in ("residual", "shortcut") if key in entry)


def _depth(network: Any) -> int:
    """Return how many lists are inside each other; the levels are counted, not walked recursively."""
    depth, level = 0, [network]
    while level and depth <= MOST_DEPTH + 1:
        depth, level = depth + 1, [inner for each in level for inner in _lists(each)]
    return depth


def _count(network: Any) -> int:
    return len(network) + sum(_count(inner) for inner in _lists(network) if isinstance(inner, list | tuple))


def _read_list(entries: Any, shape: Shape, path: str) -> tuple[Layer, ...]:
    if not isinstance(entries, list | tuple) or not entries:
        raise ConfigurationError(path, f'must be a list of layers, such as ["relu"], not {entries!r:.80}')
    layers: list[Layer] = []
    for i, entry in enumerate(entries):
        layers.append(_read(entry, shape, f"{path}[{i}]"))
        shape = layers[-1].after
    return tuple(layers)


def _read(entry: Any, shape: Shape, path: str) -> Layer:
    if isinstance(entry, str):
        return _read_name(entry, shape, path)
    if not isinstance(entry, Mapping):
        message = f'must be a layer, such as {{"dense": 64}} or "relu", not {entry!r:.80}'
        raise ConfigurationError(path, message)
    kinds = [kind for kind in SETTINGS if kind in entry]
    if len(kinds) != 1:
        message = f"must have one of {', '.join(SETTINGS)}: {_hint(entry) or 'it has none'}"
        if kinds:
            message = f"is both {' and '.join(kinds)}: make it {len(kinds)} layers"
        raise ConfigurationError(path, message)
    kind = kinds[0]
    for key in entry:
        if key != kind and key not in SETTINGS[kind]:
            near = get_close_matches(str(key), SETTINGS[kind], 1)
            remedy = f"did you mean {near[0]}?" if near else f"it has {' and '.join(SETTINGS[kind])}"
            raise ConfigurationError(f"{path}.{key!s:.40}", f"is no setting of {kind}: {remedy}")
    return _READERS[kind](_Entry(entry, path), shape)


def _hint(entry: Mapping[Any, Any]) -> str:
    for key in entry:
        if near := get_close_matches(str(key), SETTINGS, 1):
            return f"did you mean {near[0]}?"
    return ""


def _read_name(name: str, shape: Shape, path: str) -> Layer:
    if name in ACTIVATION_NAMES:
        return Layer(name, shape, shape)
    if name == "flatten":
        return Layer(name, shape, (math.prod(shape),))
    names = (*ACTIVATION_NAMES, "flatten")
    if name in SETTINGS:
        example = {"norm": '"layer"', "residual": '["relu"]'}.get(name, "2")
        raise ConfigurationError(path, f'{name} needs a value, such as {{"{name}": {example}}}')
    near = get_close_matches(name, names, 1)
    remedy = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
    raise ConfigurationError(path, f"{name!r:.40} is no layer: {remedy}")


class _Entry:
    """Settings of a layer that is read, with its place for errors."""

    def __init__(self, entry: Mapping[str, Any], path: str) -> None:
        self.entry, self.path = entry, path

    def refuse(self, message: str, key: str | None = None) -> ConfigurationError:
        return ConfigurationError(self.path if key is None else f"{self.path}.{key}", message)

    def number(self, key: str, default: int, most: int, least: int = 1) -> int:
        value = self.entry.get(key, default)
        if not _is_whole(value) or not least <= value <= most:
            raise self.refuse(f"must be an integer from {least} to {most}, not {value!r:.40}", key)
        return int(value)

    def pair(self, key: str, default: Pair, least: int = 1) -> Pair:
        value = self.entry.get(key, default)
        both = value if isinstance(value, list | tuple) else [value, value]
        if len(both) != 2 or not all(_is_whole(each) and least <= each <= MOST_KERNEL for each in both):
            raise self.refuse(
                f"must be an integer from {least} to {MOST_KERNEL}, or two of them for height and width, not "
                f"{value!r:.40}",
                key,
            )
        return int(both[0]), int(both[1])

    def flag(self, key: str) -> bool:
        value = self.entry.get(key, True)
        if not isinstance(value, bool):
            raise self.refuse(f"must be true or false, not {value!r:.40}", key)
        return value

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.entry.get(key, default)
        if value not in choices:
            raise self.refuse(f"must be {' or '.join(map(repr, choices))}, not {value!r:.40}", key)
        return str(value)

    def require_image(self, kind: str, shape: Shape) -> None:
        if len(shape) != 3:
            remedy = 'put it before "flatten"' if len(shape) == 1 else "use another input_shape"
            raise self.refuse(
                f"{kind} needs an image of (channels, height, width), not the shape {_text(shape)}: {remedy}"
            )


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, Integral) and not isinstance(value, bool)


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"


def _slid(shape: Shape, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Return height and width after a window has slid over an image; not positive if it does not fit."""
    high, wide = (
        (size + 2 * pad - k) // step + 1
        for size, k, step, pad in zip(shape[1:], kernel, stride, padding, strict=True)
    )
    return high, wide


def _conv(entry: _Entry, shape: Shape) -> Layer:
    entry.require_image("conv", shape)
    channels = entry.number("conv", 0, MOST_WIDTH)
    kernel = entry.pair("kernel", (3, 3))
    stride = entry.pair("stride", (1, 1))
    padding = entry.pair("padding", ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2), 0)
    groups = entry.number("groups", 1, MOST_WIDTH)
    if shape[0] % groups or channels % groups:
        raise entry.refuse(
            f"must divide the channels before the layer ({shape[0]}) and after it ({channels}), and {groups} "
            "does not: use 1",
            "groups",
        )
    size = _slid(shape, kernel, stride, padding)
    if min(size) < 1:
        raise entry.refuse(
            f"a kernel of {_text(kernel)} does not fit an image of {_text(shape[1:])} with a padding of "
            f"{_text(padding)}: use a smaller kernel, more padding, or fewer pools and strides before it"
        )
    after = (channels, *size)
    return Layer("conv", shape, after, kernel, stride, padding, groups, entry.flag("bias"))


def _dense(entry: _Entry, shape: Shape) -> Layer:
    width = entry.number("dense", 0, MOST_WIDTH)
    if len(shape) != 1:
        raise entry.refuse(f'dense needs a vector, not the shape {_text(shape)}: put "flatten" before it')
    return Layer("dense", shape, (width,), bias=entry.flag("bias"))


def _pool(entry: _Entry, shape: Shape) -> Layer:
    entry.require_image("pool", shape)
    whole = entry.entry["pool"] == "global"
    mean = entry.choice("kind", "mean" if whole else "max", ("max", "mean")) == "mean"
    if whole:
        kernel = shape[1], shape[2]
    elif isinstance(entry.entry["pool"], str):
        raise entry.refuse(f'must be a size such as 2, or "global", not {entry.entry["pool"]!r:.40}', "pool")
    else:
        kernel = entry.pair("pool", (1, 1))
    size = _slid(shape, kernel, kernel, (0, 0))
    if min(size) < 1:
        raise entry.refuse(
            f"a pool of {_text(kernel)} does not fit an image of {_text(shape[1:])}: remove it, or use a "
            "smaller size"
        )
    return Layer("pool", shape, (shape[0], *size), kernel, kernel, mean=mean)


def _norm(entry: _Entry, shape: Shape) -> Layer:
    kind = entry.choice("norm", "", ("layer", "group"))
    groups = 1
    if kind == "group":
        if "groups" not in entry.entry:
            raise entry.refuse('needs groups, such as {"norm": "group", "groups": 4}')
        groups = entry.number("groups", 1, MOST_WIDTH)
    elif "groups" in entry.entry:
        raise entry.refuse('is only for {"norm": "group"}: omit it', "groups")
    if shape[0] % groups:
        raise entry.refuse(f"must divide the {shape[0]} channels, and {groups} does not", "groups")
    if math.prod(shape) // groups == 1:
        raise entry.refuse("a norm of a single value is always 0: remove it, or use fewer groups")
    return Layer("norm", shape, shape, groups=groups)


def _residual(entry: _Entry, shape: Shape) -> Layer:
    layers = _read_list(entry.entry["residual"], shape, f"{entry.path}.residual")
    shortcut: tuple[Layer, ...] = ()
    if "shortcut" in entry.entry:
        shortcut = _read_list(entry.entry["shortcut"], shape, f"{entry.path}.shortcut")
    after, other = layers[-1].after, shortcut[-1].after if shortcut else shape
    if after != other:
        one = '{"conv": CHANNELS, "kernel": 1}' if len(after) == 3 else '{"dense": WIDTH}'
        raise entry.refuse(
            f"the layers end with the shape {_text(after)}, and the shortcut with {_text(other)}: make them "
            f'equal, for example with "shortcut": [{one}]'
        )
    return Layer("residual", shape, after, layers=layers, shortcut=shortcut)


_READERS = {"conv": _conv, "dense": _dense, "pool": _pool, "norm": _norm, "residual": _residual}
