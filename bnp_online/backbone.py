"""Frozen backbones: networks trained elsewhere, whose features a model learns on.

`save_backbone` writes the program of a torch module, exported by `torch.export`, as one safetensors file: the
weights, and the operations as JSON. `load_backbone` reads it. Only the operations in `OPERATIONS` can run,
and nothing is unpickled: a file is data, not code. An archive of `torch.export.save` (``.pt2``) has pickled
parts, and is refused.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint
from .errors import BackboneError, CheckpointError, ConfigurationError

#: Operations of torch that a backbone may have. None changes a tensor, draws numbers, or reads a file.
_SUPPORTED = """
    _adaptive_avg_pool2d.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
    adaptive_max_pool2d.default add.Scalar add.Tensor addmm.default amax.default avg_pool1d.default
    avg_pool2d.default batch_norm.default bmm.default cat.default chunk.default clamp.default clone.default
    constant_pad_nd.default contiguous.default conv1d.default conv2d.default conv2d.padding conv3d.default
    div.Scalar div.Tensor elu.default exp.default expand.default flatten.using_ints gelu.default
    group_norm.default hardsigmoid.default hardswish.default hardtanh.default instance_norm.default
    layer_norm.default leaky_relu.default linear.default log_softmax.int matmul.default max_pool1d.default
    max_pool2d.default mean.dim mm.default mul.Scalar mul.Tensor neg.default pad.default permute.default
    pow.Tensor_Scalar prelu.default relu.default relu6.default reshape.default rms_norm.default rsqrt.default
    rsub.Scalar scaled_dot_product_attention.default select.int sigmoid.default silu.default slice.Tensor
    softmax.int softplus.default split.Tensor split_with_sizes.default sqrt.default squeeze.dim stack.default
    sub.Scalar sub.Tensor sum.dim_IntList t.default tanh.default transpose.int unbind.int unflatten.int
    unsqueeze.default upsample_nearest2d.vec view.default

    _native_batch_norm_legit_no_training.default _softmax.default convolution.default
    max_pool2d_with_indices.default native_group_norm.default native_layer_norm.default
"""
OPERATIONS = frozenset(_SUPPORTED.split())
#: An entry of the result of an operation with several results.
_ENTRY = "getitem"
#: Operations that do nothing in evaluation mode.
_IDENTITY = frozenset({"dropout.default", "alias.default", "detach.default"})
#: Index of the argument that says whether a normalization uses the statistics of its batch.
_OWN_STATISTICS = {"batch_norm.default": 5, "instance_norm.default": 5}
#: Index of the probability of dropout in attention.
_ATTENTION_DROPOUT = 4


class Backbone:
    """Frozen network from a file of `save_backbone`.

    Parameters
    ----------
    about : dict
        ``input_shape``, ``nodes`` and ``output``, as in the file.
    tensors : dict of str to Tensor
        Weights and constants by name.
    name : str
        Name of the file.

    Attributes
    ----------
    name : str
        Name of the file, without folders.
    sha256 : str
        Digest of operations and weights, in hex.
    input_shape : tuple of int
        Shape of an input.
    features : int
        Number of features.

    Raises
    ------
    BackboneError
        If an operation is not supported, or the program does not run.
    """

    def __init__(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> None:
        self._about, self._tensors = about, dict(tensors)
        self.name = name
        self.sha256 = checkpoint.digest(about, tensors)
        try:
            self._nodes = [_operation(node) for node in about["nodes"]]
            self._output = int(about["output"])
            self.input_shape = tuple(int(size) for size in about["input_shape"])
            features = self.on("cpu")(torch.zeros(1, *self.input_shape))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise BackboneError(f"{name} is damaged: its program does not run: {error}") from error
        if not isinstance(features, Tensor) or features.dim() != 2 or not features.is_floating_point():
            raise BackboneError(f"{name} must map (1, *input_shape) to a tensor of shape (1, features)")
        self.features = features.shape[1]

    def on(self, device: str) -> Callable[[Tensor], Tensor]:
        """Return a function from an input of shape (1, *input_shape) to its features, (1, F), on a device."""
        tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        nodes = [
            (run, _bound(args, tensors), {key: _bound(value, tensors) for key, value in options.items()})
            for run, args, options in self._nodes
        ]
        return functools.partial(_run, nodes, self._output)

    def require(self, sha256: str | None) -> None:
        """Raise `BackboneError` unless this is the backbone with a digest."""
        if sha256 != self.sha256:
            raise BackboneError(
                f"{self.name} is not the backbone of the model: its digest is {self.sha256:.12}…, not "
                f"{sha256!s:.12}…. Put the former file back, or train a new model"
            )

    def __deepcopy__(self, memo: object) -> Backbone:
        """Return the backbone itself: it does not change."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Backbone, (self._about, self._tensors, self.name)

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, {self.input_shape} → {self.features})"


class _Value:
    """Place of a value in a program: the number of the node that computes it; 0 is the input."""

    def __init__(self, number: int) -> None:
        self.number = number


def _operation(node: Mapping[str, Any]) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    name, args, options = node["op"], node["args"], node.get("options", {})
    if name == _ENTRY:
        return _entry, args, {}
    if name not in OPERATIONS:
        raise ValueError(f"the operation {name!r:.60} is not supported")
    at = _OWN_STATISTICS.get(name)
    if at is not None and args[at] is not (name == "instance_norm.default"):
        raise ValueError(f"{name} is in training mode")
    if name.startswith("scaled_dot_product") and (args[_ATTENTION_DROPOUT:] or [0.0])[0]:
        raise ValueError(f"{name} has dropout")
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload), args, options


def _entry(values: Sequence[Tensor], index: int) -> Tensor:
    return values[index]


def _bound(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return an argument with its tensors, and places in place of numbers of nodes."""
    if isinstance(value, Mapping):
        return tensors[value["tensor"]] if "tensor" in value else _Value(int(value["node"]))
    return [_bound(entry, tensors) for entry in value] if isinstance(value, list) else value


def _filled(value: Any, values: Sequence[Any]) -> Any:
    if isinstance(value, _Value):
        return values[value.number]
    return [_filled(entry, values) for entry in value] if isinstance(value, list) else value


@torch.no_grad()
def _run(
    nodes: Sequence[tuple[Callable[..., Any], list[Any], dict[str, Any]]], output: int, x: Tensor
) -> Tensor:
    values: list[Any] = [x]
    for run, args, options in nodes:
        options = {key: _filled(value, values) for key, value in options.items()}
        values.append(run(*_filled(args, values), **options))
    result: Tensor = values[output]
    return result


def save_backbone(path: str | os.PathLike[str], module: nn.Module, input_shape: Sequence[int]) -> Backbone:
    """Export a module in evaluation mode, and write it to a file for `load_backbone`.

    Parameters
    ----------
    path : path
        The file, such as ``backbones/digits.safetensors``; replaced if it exists.
    module : nn.Module
        Maps (N, *input_shape) to (N, features); it does not change.
    input_shape : sequence of int
        Shape of one input.

    Returns
    -------
    Backbone
        The backbone in the file.

    Raises
    ------
    BackboneError
        If `torch.export` cannot export the module, or it has an operation that is not supported.
    ConfigurationError
        If `module` is no module of torch.

    Examples
    --------
    >>> import tempfile
    >>> module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     backbone = save_backbone(f"{folder}/small.safetensors", module, (2, 2))
    >>> backbone
    Backbone('small.safetensors', (2, 2) → 3)
    """
    if not isinstance(module, nn.Module):
        raise ConfigurationError("module", f"must be a torch.nn.Module, not {type(module).__name__}")
    training = {each: each.training for each in module.modules()}
    try:
        program = torch.export.export(module.eval(), (torch.zeros(1, *input_shape),), strict=False)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(f"torch.export cannot export the module: {error}") from error
    finally:
        for each, was in training.items():
            each.training = was
    nodes, output, tensors = _written(_functional(program))
    about = {"input_shape": [int(size) for size in input_shape], "nodes": nodes, "output": output}
    backbone = Backbone(about, tensors, Path(path).name)
    checkpoint.save(path, {"backbone": about, "tensors": tensors})
    return backbone


def _functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program without operations that change their arguments, such as ``relu_``."""
    names = [getattr(node.target, "__name__", "") for node in program.graph.nodes]
    if not any(name.partition(".")[0].endswith("_") for name in names):
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of itself
        functional: torch.export.ExportedProgram = program.run_decompositions({})
        return functional


def _written(program: torch.export.ExportedProgram) -> tuple[list[dict[str, Any]], int, dict[str, Tensor]]:
    """Return the operations of a program as JSON, the number of its output, and its tensors."""
    signature, state = program.graph_signature, {**program.constants, **program.state_dict}
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    places: dict[Any, Any] = {}
    nodes: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    output = 0
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            places[node] = {"tensor": names[node.name]}
        elif node.op == "placeholder":
            places[node] = {"node": 0}
        elif node.op == "output":
            (result,) = node.args[0] if len(node.args[0]) == 1 else (None,)
            if result is None:
                raise BackboneError("the module must return one tensor")
            output = places[result].get("node", 0)
        else:
            name = getattr(node.target, "__name__", str(node.target))
            if name in _IDENTITY:
                places[node] = places[node.args[0]]
                continue
            if name not in OPERATIONS and name != _ENTRY:
                raise BackboneError(
                    f"the module has the operation {name}, which is not supported: use others, or train a "
                    "module as network= in Python"
                )
            written = {"op": name, "args": [_json(each, places) for each in node.args]}
            if node.kwargs:
                written["options"] = {key: _json(value, places) for key, value in node.kwargs.items()}
            nodes.append(written)
            places[node] = {"node": len(nodes)}
    for name in {each["tensor"] for node in nodes for each in _tensors_of(node)}:
        tensors[name] = state[name].detach().clone()
    return nodes, output, tensors


def _tensors_of(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if "tensor" in value:
            yield value
        else:
            for entry in value.values():
                yield from _tensors_of(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _tensors_of(entry)


def _json(value: Any, places: Mapping[Any, Any]) -> Any:
    if isinstance(value, torch.fx.Node):
        return places[value]
    if isinstance(value, list | tuple):
        return [_json(entry, places) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise BackboneError(f"the module has an argument of type {type(value).__name__}, which is not supported")


def load_backbone(path: str | os.PathLike[str]) -> Backbone:
    """Return the backbone in a file of `save_backbone`; nothing is unpickled.

    Raises
    ------
    BackboneError
        If the file is missing, damaged, or of another kind.
    """
    name = Path(path).name
    try:
        state = checkpoint.loads(Path(path).read_bytes())
    except OSError as error:
        raise BackboneError(f"cannot read {name}: {error.strerror}") from error
    except CheckpointError as error:
        raise BackboneError(
            f"{name} is no file of save_backbone ({error}): save the module with bnp_online.save_backbone. A "
            ".pt2 archive has pickled parts, and is not read"
        ) from error
    if not isinstance(state.get("backbone"), dict):
        raise BackboneError(f"{name} has a model, not a backbone: save one with bnp_online.save_backbone")
    return Backbone(state["backbone"], state["tensors"], name)
