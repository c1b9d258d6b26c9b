"""State validation: checks of the tensors of a state before an engine loads them.

A checksum detects a damaged file. A file made by hand has a valid checksum, and compiled code trusts its
arrays: an invalid class index would write beyond the end of an array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import StateError
from .base import LearnerSpec

#: Greatest count: float64 represents all integers up to it.
MOST = 2**53
_TYPES = (torch.float32, torch.float64, torch.int64)


def check_tensors(spec: LearnerSpec, step: int, state: Mapping[str, Tensor]) -> None:
    """Check the values of the tensors of a state; engines check names and shapes.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    step : int
        Number of samples learned.
    state : mapping of str to Tensor
        Result of `Engine.state_dict`.

    Raises
    ------
    StateError
        If no learner of these settings has such a state.
    """
    if isinstance(spec.network, str | list):
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor) or tensor.dtype not in _TYPES:
                raise StateError(f"{name} is not a tensor of float32, float64 or int64")
    try:
        problem = next(_problems(spec, step, state), None)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise StateError(f"the state is damaged: {error}") from error
    if problem is not None:
        raise StateError(f"the state is damaged: {problem}")


def _problems(spec: LearnerSpec, step: int, state: Mapping[str, Tensor]) -> Iterator[str]:
    outputs = state["network.head.bias"].shape[-1]
    if state["step"].shape != () or int(state["step"]) != step:
        yield f"step counter {step} does not match the engine's"
    if (outputs > 0) != (step > 0) or (spec.task == "regression" and outputs > 1):
        yield f"{outputs} outputs after {step} samples"
    if spec.network == "mlp" and spec.input_shape is not None:
        columns = math.prod(spec.input_shape)
        if len(state["inputs.mean"]) != columns:
            yield f"{len(state['inputs.mean'])} inputs, but the input shape has {columns}"
    moments = ("inputs",) if spec.task == "classification" else ("inputs", "target")
    for name in moments:
        if not _finite(state[f"{name}.mean"]) or not _finite(state[f"{name}.var"], least=0.0):
            yield f"the moments of {name} are not finite"
    if spec.task == "regression" and step and not _finite(state["target.range"]):
        yield "the range of targets is not finite"
    if len(spec.members) > 1:
        weights = state["mixture.weights"]
        if not _finite(weights, least=0.0) or not float(weights.sum()) > 0.0:
            yield "the mixture weights are negative, not finite or all 0"
        if not _finite(state["mixture.error_scale"], least=0.0):
            yield "the scale of errors is not finite"
    yield from _problems_of_second_generation(spec, moments, state)
    if spec.remembered:
        yield from _problems_of_memory(spec, outputs, state)


def _problems_of_second_generation(
    spec: LearnerSpec, moments: tuple[str, ...], state: Mapping[str, Tensor]
) -> Iterator[str]:
    if spec.stacks:
        shares = state["mixture.shares"]
        if not _finite(shares, least=0.0) or not float(shares.sum()) > 0.0:
            yield "the shares of hedge and stack are negative, not finite or all 0"
        inverse = state["stack.inverse"]
        if not _finite(state["stack.coefficients"]) or not _finite(inverse):
            yield "the stack is not finite"
        elif not torch.allclose(inverse, inverse.mT, atol=1e-9) or bool((inverse.diagonal() <= 0.0).any()):
            yield "the stack has no inverse of a curvature: it is not symmetric, or not positive"
    if spec.neighbours and not _finite(state["neighbours.metric"], least=0.0):
        yield "the metric of the neighbours is negative or not finite"
    if spec.bins:
        if not _finite(state["bins.weight"]) or not _finite(state["bins.head.bias"]):
            yield "the weights of the bins are not finite"
        if not _finite(state["bins.squares"], least=0.0):
            yield "the sums of squares of the bins are negative or not finite"
    for name in moments if spec.bounds else ():
        if not all(_counts(state[f"bounds.{name}.{which}"]) for which in ("values", "joined", "clipped")):
            yield f"the numbers of values of {name} are no counts"
        if not _finite(state[f"bounds.{name}.first"]) or not _finite(state[f"bounds.{name}.largest"], 0.0):
            yield f"the bounds of {name} are not finite"


def _problems_of_memory(spec: LearnerSpec, outputs: int, state: Mapping[str, Tensor]) -> Iterator[str]:
    count, x, y = int(state["memory.count"]), state["memory.x"], state["memory.y"]
    rows, columns = min(count, spec.remembered), 4 if spec.neighbours else 2
    if not 0 <= count < MOST or x.shape != (rows, len(state["inputs.mean"])) or y.shape != (rows, columns):
        yield "the memory has a wrong size"
        return
    missing = x.isnan().sum(dim=1)
    if bool((missing != (y[:, 3] if spec.neighbours else 0)).any()):
        yield "the memory has other numbers of missing values than it states"
    elif not _finite(x.nan_to_num(posinf=math.inf, neginf=-math.inf)) or not _finite(y):
        yield "the memory is not finite"
    elif bool((y[:, 1] < 0.0).any()):
        yield "the memory has a negative weight"
    elif spec.task == "classification":
        classes = y[:, [0, 2] if spec.neighbours else [0]]
        if not _counts(classes) or bool((classes >= outputs).any()):
            yield "the memory has an unknown class"


def _counts(tensor: Tensor) -> bool:
    """Return whether all values are integers from 0."""
    return _finite(tensor, least=0.0) and bool(((tensor == tensor.floor()) & (tensor < MOST)).all())


def _finite(tensor: Tensor, least: float = -math.inf) -> bool:
    """Return whether all values are finite, and at least `least`."""
    return bool((tensor.isfinite() & (tensor >= least)).all())
