"""What the tensors of a state must be before an engine takes them: a file may hold anything.

A file that was damaged is found by its checksum. One that was made by hand has a right one, and compiled code
trusts what stands in its arrays: a class that there is not would be written to beyond an array's end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import StateError
from .base import LearnerSpec

#: Greatest count: each one up to it is a float64 as well.
MOST = 2**53
_TYPES = (torch.float32, torch.float64, torch.int64)


def check_tensors(spec: LearnerSpec, step: int, state: Mapping[str, Tensor]) -> None:
    """Check that an engine may compute with the tensors of a state, whose names and shapes it checks itself.

    Parameters
    ----------
    spec : LearnerSpec
        Of the learner.
    step : int
        How many samples it has learned.
    state : mapping of str to Tensor
        As an engine's ``state_dict`` returns it.

    Raises
    ------
    StateError
        If they cannot be those of such a learner.
    """
    if isinstance(spec.network, str):
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor) or tensor.dtype not in _TYPES:
                raise StateError(f"{name} is no tensor of a type that a state has")
    try:
        problem = next(_problems(spec, step, state), None)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise StateError(f"the state is damaged: {error}") from error
    if problem is not None:
        raise StateError(f"the state is damaged: {problem}")


def _problems(spec: LearnerSpec, step: int, state: Mapping[str, Tensor]) -> Iterator[str]:
    outputs = state["network.head.bias"].shape[-1]
    if state["step"].shape != () or int(state["step"]) != step:
        yield f"it is at two steps, {step} and another"
    if (outputs > 0) != (step > 0) or (spec.task == "regression" and outputs > 1):
        yield f"{outputs} outputs after {step} samples"
    if spec.network == "mlp" and spec.input_shape is not None:
        columns = math.prod(spec.input_shape)
        if len(state["inputs.mean"]) != columns:
            yield f"{len(state['inputs.mean'])} inputs of a shape that has {columns}"
    moments = ("inputs",) if spec.task == "classification" else ("inputs", "target")
    for name in moments:
        if not _finite(state[f"{name}.mean"]) or not _finite(state[f"{name}.var"], least=0.0):
            yield f"the moments of {name} are not finite"
    if spec.task == "regression" and step and not _finite(state["target.range"]):
        yield "the range of targets is not finite"
    if len(spec.copies) > 1:
        weights = state["mixture.weights"]
        if not _finite(weights, least=0.0) or not float(weights.sum()) > 0.0:
            yield "the weights of the mixture are no weights"
        if not _finite(state["mixture.error_scale"], least=0.0):
            yield "the scale of errors is not finite"
    if any(copy.replays for copy in spec.copies):
        yield from _problems_of_memory(spec, outputs, state)


def _problems_of_memory(spec: LearnerSpec, outputs: int, state: Mapping[str, Tensor]) -> Iterator[str]:
    count, x, y = int(state["memory.count"]), state["memory.x"], state["memory.y"]
    rows = min(count, spec.memory)
    if not 0 <= count < MOST or x.shape != (rows, len(state["inputs.mean"])) or y.shape != (rows, 2):
        yield "the memory is not of its size"
    elif not _finite(x) or not _finite(y) or bool((y[:, 1] < 0.0).any()):
        yield "the memory is not finite"
    elif spec.task == "classification":
        classes = y[:, 0]
        if bool(((classes != classes.floor()) | (classes < 0) | (classes >= outputs)).any()):
            yield "the memory has a class that there is not"


def _finite(tensor: Tensor, least: float = -math.inf) -> bool:
    return bool((tensor.isfinite() & (tensor >= least)).all())
