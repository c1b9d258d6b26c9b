"""Parameters of the estimators, each declared once: type, default, range and description.

`Parameters` defines the constructors of `BNPClassifier` and `BNPRegressor`, their docstrings, the
specification of an engine (`LearnerSpec`), the validation, and the schema of ``POST /models``
(`bnp_online.client.schemas.ModelSpec`). This module imports neither NumPy nor PyTorch.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from .errors import ConfigurationError
from .layer_list import as_json, read_layers

if TYPE_CHECKING:
    from torch import nn

    from .backbone import Backbone

StepScale = Literal["norm", "paper", "none"]
_Class = TypeVar("_Class", bound=type)

#: Engines of version 0.1.0, by the names that replaced them.
_FORMER_ENGINES = {"compiled": "numba", "graphed": "torch", "autograd": "torch"}
#: Latest generation of the learner.
LATEST_LEARNER = 2
#: Parameters that earlier versions did not store, with the values that a stored model without them has.
EARLIER = {"learner": 1, "text": [], "sparse": [], "ngrams": 1, "max_values": 2**20, "backbone": None}
#: Names of types in a docstring, where they differ from the annotation.
_TYPES = {
    "tuple[int, ...]": "tuple of int",
    "tuple[str, ...]": "tuple of str",
    "nn.Module": "torch.nn.Module",
    "list[Any]": "list of layers",
}


@dataclass(eq=False, repr=False)
class Parameters:
    """Parameters of an estimator.

    The metadata of a field has the range of a number, or of each entry of a tuple (``ge``, ``gt``, ``le``),
    the accepted strings (``choices``, and a regular expression, ``pattern``) and the ``min_length`` of a
    tuple.

    Attributes
    ----------
    hidden
        Widths of the hidden layers; ``()`` is the linear model.
    activation
        Nonlinearity of the hidden layers.
    lr
        Learning rate. ``auto`` combines experts: networks with several rates, linear models and
        nearest neighbours, weighted by the past performance of each, and a stack that learns how to
        combine them (`mixture`). A number, or a network other than ``mlp``, trains one network; its
        rate under ``auto`` is 0.3.
    replay
        With ``lr=auto``: number of stored samples that a second set of networks learns again after
        each new sample. 0 omits these networks, which is about twice as fast.
    memory
        Capacity of the memory, which contains the latest samples, for replay and nearest neighbours.
    rho
        Retention weight ρ of the running moments.
    eps_rel
        Relative damping of the variances: ``σ̃² = σ² + eps_rel · max(σ²) + eps_abs``.
    eps_abs
        Absolute damping of the variances; not 0 if `eps_rel` is.
    step_scale
        Divisor of the step; see `BNP`.
    standardize
        Standardize inputs online, with cumulative moments, and clip them to ±5. Each input has its own
        moments; with ``network=cnn`` or a module, each channel has its own (the first of three or more axes).
    input_shape
        Shape of ``x``, an array or a nested list. None: ``x`` is a dict, and new features may
        appear at any time.
    network
        Network to train. A list has its layers, such as
        ``[{"conv": 32, "kernel": 3}, "relu", {"pool": 2}, "flatten", {"dense": 128}, "relu"]``.
        The layers are ``relu``, ``tanh``, ``gelu``, ``flatten``, and objects with ``conv`` (its channels;
        also ``kernel``, ``stride``, ``padding``, ``groups``, ``bias``), ``dense`` (its width; also
        ``bias``), ``pool`` (its size, or ``global``; also ``kind``, which is ``max`` or ``mean``), ``norm``
        (``layer``, or ``group`` with ``groups``), or ``residual`` (layers, whose output is added to the
        input, or to the output of the layers in ``shortcut``). A module maps (N, *input_shape) to
        (N, features). The estimator copies it. To a list or a module it adds a linear layer, which grows
        with the outputs; `hidden` and `activation` have no effect.
    max_features
        Maximum number of columns, and of features with strings or words once one of them has outgrown its
        columns. Further features are ignored; those without a column are counted.
    max_classes
        Maximum number of classes. A further class is an error.
    text
        Names of the features whose strings are split into words.
    ngrams
        Greatest number of words of a sequence that counts as a value of a text: 1 is words alone.
    sparse
        Names of numbers that are counts, such as those of a bag of words, as prefixes with an asterisk:
        ``("w:*",)``.
    max_values
        Maximum number of values of strings, words and rare numbers that have no column. Beyond it the values
        least recently used are forgotten. A value takes 52 bytes with two classes, and about 30 more than the
        length of its name. With many classes there are fewer: values times classes (rounded up to a power of
        two) are at most 2²⁴, which take 270 MB. A class that comes when they would be more has no weights of
        values.
    engine
        Implementation of the step. ``auto`` is ``numba`` for multilayer perceptrons on the CPU, and
        ``torch`` otherwise. On a GPU the step is captured in a CUDA graph; a module is captured
        only with ``torch``, and must then do the same work for every input.
    device
        Device of the step. ``cuda`` is the current GPU, ``cuda:1`` the one with this number. ``auto`` is a
        GPU where one is available, but the CPU for small multilayer perceptrons. The choice depends on
        `hidden`, `input_shape` and the number of members, not on a measurement.
    seed
        Seed of the initial weights. Equal seeds and equal samples give equal bits on machines with the same
        library versions and CPU model.
    intervals
        Regression: number of parameter samples of a small error model, for predictive intervals
        (`predict_interval_one`); 32 is a good number. 0: no intervals, at no cost.
    learner
        Generation of the learner: how a multilayer perceptron bounds glitches and, with ``lr=auto``, which
        experts it combines. 2 is the latest. 1 exists for models of earlier versions, which learn on as
        before; new models have no use for it. Other networks do not depend on it.
    backbone
        Frozen network from a file of `save_backbone`. The model learns on its features: `network` and
        `hidden` are those of the head, and `input_shape` is that of the backbone.
    """

    hidden: tuple[int, ...] = field(default=(100, 100), metadata={"ge": 1})
    activation: str = field(default="relu", metadata={"choices": ("relu", "tanh", "gelu")})
    lr: float | str = field(default="auto", metadata={"gt": 0, "choices": ("auto",)})
    replay: int = field(default=3, metadata={"ge": 0})
    memory: int = field(default=5000, metadata={"ge": 1})
    rho: float = field(default=0.99, metadata={"ge": 0, "le": 1})
    eps_rel: float = field(default=1e-2, metadata={"ge": 0})
    eps_abs: float = field(default=1e-4, metadata={"ge": 0})
    step_scale: StepScale = field(default="norm", metadata={"choices": get_args(StepScale)})
    standardize: bool = True
    input_shape: tuple[int, ...] | None = field(default=None, metadata={"ge": 1, "min_length": 1})
    network: str | list[Any] | nn.Module = field(default="mlp", metadata={"choices": ("mlp", "cnn")})
    max_features: int = field(default=4096, metadata={"ge": 1})
    max_classes: int = field(default=1024, metadata={"ge": 1})
    engine: str = field(default="auto", metadata={"choices": ("auto", "numba", "torch")})
    device: str = field(
        default="auto", metadata={"choices": ("auto", "cpu", "cuda"), "pattern": r"cuda:\d{1,2}"}
    )
    seed: int = 0
    intervals: int = field(default=0, metadata={"ge": 0})
    learner: int = field(default=LATEST_LEARNER, metadata={"ge": 1, "le": LATEST_LEARNER})
    text: tuple[str, ...] = ()
    ngrams: int = field(default=1, metadata={"ge": 1, "le": 5})
    sparse: tuple[str, ...] = ()
    max_values: int = field(default=2**20, metadata={"ge": 32})
    backbone: Backbone | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "text", "sparse"):
            if isinstance(getattr(self, name), list):  # as JSON and River give it
                setattr(self, name, tuple(getattr(self, name)))
        if isinstance(self.network, tuple | list):
            self.network = as_json(self.network)
        if self.engine == "autograd" and not isinstance(self.network, str):
            self.engine = "auto"  # "torch" would capture the module on a GPU
        self.engine = _FORMER_ENGINES.get(self.engine, self.engine)
        check_parameters(**self._parameters())
        if self.backbone is not None:
            self._take_shape(self.backbone)
        for pattern in self.sparse:
            if not pattern.endswith("*") or pattern == "*":
                raise ConfigurationError(
                    "sparse", f"{pattern!r:.80} must be a prefix and an asterisk, such as 'w:*'"
                )
        for name in ("text", "sparse"):
            if getattr(self, name) and self.input_shape is not None:
                raise ConfigurationError(name, f"is for features with names: omit {name} or input_shape")
            if getattr(self, name) and self.learner < LATEST_LEARNER:
                raise ConfigurationError(name, f"needs the latest learner: omit {name} or learner")
        if self.network != "mlp" and self.input_shape is None:
            if isinstance(self.network, list):
                raise ConfigurationError("network", "of layers needs input_shape, such as (1, 28, 28)")
            raise ConfigurationError("input_shape", "this network needs one, such as (1, 28, 28)")
        if isinstance(self.network, list):
            read_layers(self.network, self._head_shape or ())

    def _take_shape(self, backbone: Backbone) -> None:
        if self.input_shape is None:
            self.input_shape = backbone.input_shape
        if tuple(self.input_shape) != backbone.input_shape:
            raise ConfigurationError(
                "input_shape", f"must be {backbone.input_shape}, that of the backbone: omit input_shape"
            )
        if self.network == "cnn":
            message = "'cnn' needs images, and a backbone returns vectors: use 'mlp', or a list of layers"
            raise ConfigurationError("network", message)

    @property
    def _head_shape(self) -> tuple[int, ...] | None:
        """Shape of the inputs of the network that learns."""
        return self.input_shape if self.backbone is None else (self.backbone.features,)

    def _parameters(self) -> dict[str, Any]:
        """Return the arguments of the constructor by name."""
        return {each.name: getattr(self, each.name) for each in _declared(type(self))}


#: Description by parameter, from the docstring; empty under ``python -OO``.
DESCRIPTIONS = {
    name: " ".join(text.split())
    for name, text in re.findall(r"^    (\w+)\n((?: {8}.+\n)+)", Parameters.__doc__ or "", re.MULTILINE)
}


def check_parameters(**values: Any) -> None:
    """Check values against the declared ranges.

    Raises
    ------
    ConfigurationError
        If a value has the wrong type or is out of range; the error names the parameter.
    """
    for name, value in values.items():
        each = Parameters.__dataclass_fields__[name]
        if not _in_range(each, value):
            raise ConfigurationError(name, f"must be {_type_of(each)}, not {value!r:.80}")
    if values.get("eps_rel") == values.get("eps_abs") == 0.0:
        raise ConfigurationError("eps_rel, eps_abs", "must not both be 0")


def documented(cls: _Class) -> _Class:
    """Replace ``{parameters}`` in a class docstring with the numpydoc entries of its constructor."""
    if cls.__doc__ and "{parameters}" in cls.__doc__:  # not under ``python -OO``
        entries = "\n".join(
            f"{each.name} : {_type_of(each)}, default {each.default!r}\n"
            + textwrap.indent(textwrap.fill(DESCRIPTIONS[each.name], 96), "    ")
            for each in _declared(cls)
        )
        cls.__doc__ = cls.__doc__.replace("{parameters}", textwrap.indent(entries, "    ").lstrip())
    return cls


def _declared(cls: type) -> Iterator[Field[Any]]:
    """Yield the declarations of the parameters that a class takes."""
    return (each for each in fields(cls) if each.init and each.name in Parameters.__dataclass_fields__)


def _in_range(each: Field[Any], value: Any) -> bool:
    about, kinds = each.metadata, str(each.type).split(" | ")
    if "list[Any]" in kinds and isinstance(value, list):
        return True  # the layers are checked with the input shape
    if kinds == ["tuple[str, ...]"]:
        return isinstance(value, tuple | list) and all(isinstance(entry, str) for entry in value)
    if value is None or isinstance(value, str):
        matches = isinstance(value, str) and "pattern" in about and re.fullmatch(about["pattern"], value)
        return value == each.default or value in about.get("choices", ()) or bool(matches)
    if "Backbone" in kinds:
        return hasattr(value, "features")
    if "tuple[int, ...]" in kinds:
        if not isinstance(value, tuple | list) or len(value) < about.get("min_length", 0):
            return False
        return all(isinstance(entry, Integral) and _within(about, entry) for entry in value)
    if "float" in kinds or "int" in kinds:
        return isinstance(value, Real if "float" in kinds else Integral) and _within(about, value)
    return value in (False, True) if "bool" in kinds else hasattr(value, "named_modules")


def _within(about: Mapping[str, Any], value: Any) -> bool:
    above = value > about["gt"] if "gt" in about else value >= about.get("ge", -math.inf)
    return bool(above and value <= about.get("le", math.inf) and value < math.inf)


def _type_of(each: Field[Any]) -> str:
    """Return the type and range of a parameter, as a docstring gives them."""
    about = each.metadata
    bounds = " and ".join(
        f"{sign} {about[key]}" for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤")) if key in about
    )
    choices = about.get("choices", ())
    texts = [", ".join(map(repr, choices))] if choices else []
    texts = [f"{{{text}}}" if len(choices) > 1 else text for text in texts]
    if "pattern" in about:
        texts.append("'cuda:0', 'cuda:1', …")
    for name in str(each.type).split(" | "):
        if name == "None":
            texts.append("None")
        elif name not in ("str", "StepScale"):
            empty = "non-empty " if about.get("min_length") else ""
            texts.append(f"{empty}{_TYPES.get(name, name)} {bounds}".rstrip())
    return " or ".join(texts)
