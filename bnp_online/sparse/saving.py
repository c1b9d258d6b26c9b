"""State of a stage as named tensors, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engines.numba_buffers import FIRST, MEAN_BEFORE, VALUES
from ..errors import StateError
from ..mixture import FIRST_VALUES
from .constants import LAST_PAIRS
from .names import gather, link_all
from .state import (
    BOUND_ROWS,
    CLASSES,
    COEFFICIENTS,
    EVIDENCE_ROWS,
    FRESH,
    INVERSE,
    KNOWN,
    MEMBERS,
    PAIR_NUMBER,
    RAW,
    REGRESSION,
    ROWS,
    SAMPLES,
    TEXT_END,
    TEXT_WASTE,
    WEIGHT,
    State,
    block,
    untrained,
)

#: Beginning of the names.
PREFIX = "sparse."
#: Scalars that are working space.
_WORKING = [KNOWN, FRESH, PAIR_NUMBER, TEXT_END, TEXT_WASTE]
#: Rows of `State.numbers` that are working space.
_WORKING_ROWS = slice(MEAN_BEFORE, VALUES)
_MOST = 2**53


def named(s: State) -> dict[str, Tensor]:
    """Return copies of everything that learning changes."""
    return {PREFIX + name: torch.from_numpy(np.array(value, order="C")) for name, value in _arrays(s)}


def _arrays(s: State) -> Iterator[tuple[str, NDArray[Any]]]:
    rows, outputs = int(s.scalars[ROWS]), _outputs(s)
    counted = 2 if s.config[REGRESSION] else outputs
    scalars = s.scalars.copy()
    scalars[_WORKING] = 0.0
    yield "scalars", scalars
    yield "counts", s.counts[:rows, :counted]
    yield "weights", _by_class(s.weights[:rows], s)[:, :, :outputs]
    for name in ("scales", "last", "generation", "column", "length", "field"):
        yield name, getattr(s, name)[:rows]
    text = np.empty(int(s.length[:rows].sum()), np.uint8)
    gather(s, text, np.empty(max(rows, 1), np.int64))
    yield "names", text
    used = np.flatnonzero(s.pair_counts.any(axis=1) | (s.pair_scales != 0))
    yield "pairs.size", np.array(len(s.pair_scales))
    yield "pairs.rows", used
    yield "pairs.counts", s.pair_counts[used, :counted]
    yield "pairs.weights", _by_class(s.pair_weights[used], s)[:, :, :outputs]
    yield "pairs.scales", s.pair_scales[used]
    yield "bias", s.bias[:, :, :outputs]
    yield "number_weights", s.number_weights[:, :, :outputs]
    for name in ("bias_scales", "number_scales", "shares"):
        yield name, getattr(s, name)
    for name in ("numbers", "target"):
        yield name, _lasting(getattr(s, name))
    yield "evidence", s.evidence[:RAW]
    yield "totals", s.totals[:outputs]
    yield "hedge", s.hedge[WEIGHT]
    yield "stack.coefficients", s.stack[COEFFICIENTS]
    yield "stack.inverse", s.stack[INVERSE:]


def _outputs(s: State) -> int:
    return 1 if s.config[REGRESSION] else int(s.scalars[CLASSES])


def _by_class(weights: NDArray[Any], s: State) -> NDArray[Any]:
    return weights.reshape(len(weights), MEMBERS, s.totals.shape[0])


def _lasting(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return moments and bounds without working space."""
    lasting = columns.copy()
    lasting[_WORKING_ROWS] = 0.0
    counted = np.arange(FIRST_VALUES)[:, None] < columns[VALUES]
    lasting[FIRST:] = np.where(counted, columns[FIRST:], 0.0)
    return lasting


def restored(
    tensors: Mapping[str, Tensor],
    *,
    regression: bool,
    seed: int,
    max_values: int,
    classes: int,
    fields: int,
    numbers: int,
    evidence: int,
    real: np.dtype[Any],
) -> State:
    """Return the state in tensors from `named`.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        The tensors; others than the stage's are ignored.
    regression, seed, max_values, real
        As for `untrained`.
    classes, fields, numbers, evidence : int
        Number of classes (1 for a regression), of fields, of numeric columns and of evidence columns.

    Raises
    ------
    StateError
        If the tensors are damaged, or do not fit.
    """
    values = {n.removeprefix(PREFIX): t.numpy() for n, t in tensors.items() if n.startswith(PREFIX)}
    try:
        problem = next(_problems(values, regression, max_values, classes, fields, (numbers, evidence)), None)
        if problem is not None:
            raise StateError(f"the state of the sparse stage is damaged: {problem}")
        return _filled(values, untrained(regression, seed, max_values, real), classes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"the state of the sparse stage is damaged: {error!r}") from error


def _problems(
    v: Mapping[str, NDArray[Any]],
    regression: bool,
    max_values: int,
    classes: int,
    fields: int,
    columns: tuple[int, int],
) -> Iterator[str]:
    numbers, evidence = columns
    expected = {"scalars", "names", "pairs.size", "pairs.rows", "numbers", "target"}
    for name, array in v.items():
        if array.dtype.kind == "f" and not (np.isfinite(array) | (name == "scalars")).all():
            yield f"{name} is not finite"
    rows, length, size = int(v["scalars"][ROWS]), v["length"], int(v["pairs.size"])
    if not expected <= v.keys() or np.isnan(v["scalars"]).any():
        yield "a part is missing"
    if (
        not 0 <= rows <= max_values
        or length.shape != (rows,)
        or int(v["scalars"][CLASSES]) != (0 if regression else classes)
    ):
        yield "it has other numbers of values or classes than it states"
    counted = 2 if regression else classes
    shapes = {
        "counts": (rows, counted),
        "weights": (rows, MEMBERS, classes),
        **dict.fromkeys(("scales", "last", "generation", "column", "field"), (rows,)),
        "bias": (2, MEMBERS, classes),
        "number_weights": (2, MEMBERS, classes, numbers),
        "number_scales": (2, numbers),
        "totals": (classes,),
        "evidence": (RAW, evidence),
        "numbers": (BOUND_ROWS, numbers),
        "target": (BOUND_ROWS, 1),
    }
    for name, shape in shapes.items():
        if v[name].shape != shape:
            yield f"{name} is of shape {v[name].shape}, not {shape}"
    if rows and (length.min() < 0 or v["field"].min() < 0 or v["field"].max() >= fields):
        yield "a value has no field"
    if int(length.sum()) != len(v["names"]):
        yield "the names have another length than stated"
    if size & (size - 1) or not 0 < size <= LAST_PAIRS or v["pairs.rows"].ndim != 1:
        yield "the number of rows of pairs is no power of two"
    if len(v["pairs.rows"]) and not 0 <= v["pairs.rows"].min() <= v["pairs.rows"].max() < size:
        yield "a pair has no row"
    for name in ("scales", "pairs.scales", "bias_scales", "number_scales", "shares", "hedge", "totals"):
        if (v[name] < 0.0).any():
            yield f"{name} is negative"
    if not 0 <= v["scalars"][SAMPLES] < _MOST or not math.isfinite(v["scalars"][SAMPLES]):
        yield "it has no number of samples"


def _filled(v: Mapping[str, NDArray[Any]], s: State, classes: int) -> State:
    rows, width = len(v["length"]), max(s.totals.shape[0], classes)
    capacity, real = max(rows, 64), s.scales.dtype
    counted, size = max(s.counts.shape[1], width), int(v["pairs.size"])

    def placed(shape: tuple[int, ...], value: NDArray[Any], dtype: Any) -> NDArray[Any]:
        array = np.zeros(shape, dtype)
        array[tuple(slice(n) for n in value.shape)] = value
        return array

    made: dict[str, NDArray[Any]] = {}
    counts, weights, scales = block(capacity, counted, width, real)
    counts[:rows, : v["counts"].shape[1]], scales[:rows] = v["counts"], v["scales"]
    weights[:rows] = placed((rows, MEMBERS, width), v["weights"], real).reshape(rows, -1)
    made |= {"counts": counts, "weights": weights, "scales": scales}
    counts, weights, scales = block(size, counted, width, real)
    used = v["pairs.rows"]
    counts[used, : v["pairs.counts"].shape[1]], scales[used] = v["pairs.counts"], v["pairs.scales"]
    weights[used] = placed((len(used), MEMBERS, width), v["pairs.weights"], real).reshape(len(used), -1)
    made |= {"pair_counts": counts, "pair_weights": weights, "pair_scales": scales}
    for name in ("last", "generation", "column", "length", "field"):
        made[name] = placed((capacity,), v[name], getattr(s, name).dtype)
    made["start"] = placed((capacity,), np.cumsum(v["length"], dtype=np.int64) - v["length"], np.int64)
    made["names"] = placed((max(len(v["names"]), 64),), v["names"], np.uint8)
    made["slots"] = np.full(1 << max(3 * rows - 1, 127).bit_length(), -1, np.int32)
    made["bias"] = placed((2, MEMBERS, width), v["bias"], np.float64)
    numbers = v["numbers"].shape[1]
    made["number_weights"] = placed((2, MEMBERS, width, numbers), v["number_weights"], np.float64)
    for name in ("bias_scales", "number_scales", "shares", "numbers", "target"):
        made[name] = v[name].copy()
    made["totals"] = placed((width,), v["totals"], np.float64)
    made["outputs"] = np.zeros((len(s.outputs), width))
    made["z"] = np.zeros(numbers)
    made["evidence"] = placed((EVIDENCE_ROWS, v["evidence"].shape[1]), v["evidence"], np.float64)
    made["numeric"] = np.zeros(numbers, np.int64)
    made["places"] = np.full((s.places.shape[0], 2, width + 1), -1, np.int32)
    made["scalars"] = v["scalars"].copy()
    made["scalars"][TEXT_END] = len(v["names"])
    s = s._replace(**made)
    s.hedge[WEIGHT], s.stack[COEFFICIENTS], s.stack[INVERSE:] = (
        v["hedge"],
        v["stack.coefficients"],
        v["stack.inverse"],
    )
    link_all(s)
    return s
