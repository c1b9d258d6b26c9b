"""State of a stage as named tensors, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engines.numba_buffers import CLIPPED, FIRST, JOINED, MEAN_BEFORE, VALUES, VAR
from ..errors import StateError
from ..mixture import FIRST_VALUES
from .constants import LAST_PAIRS, MOST_CELLS
from .names import gather, link_all
from .state import (
    BOUND_ROWS,
    BY_PAIR,
    BY_ROW,
    CLASSES,
    COEFFICIENTS,
    EVIDENCE_ROWS,
    EXPERTS,
    FEATURES,
    FRESH,
    INVERSE,
    KNOWN,
    MAX_VALUES,
    MEMBERS,
    NUMBER,
    OF_ROWS,
    PAIR_NUMBER,
    RAW,
    RECYCLED,
    REGRESSION,
    ROWS,
    SAMPLES,
    SCALARS,
    TEXT_END,
    TEXT_WASTE,
    TOUCHED,
    VARIANCE,
    WEIGHT,
    State,
    block,
    block_copy,
    most_values,
    untrained,
    width_of,
)

#: Beginning of the names.
PREFIX = "sparse."
#: Scalars that are working space.
_WORKING = [KNOWN, FRESH, PAIR_NUMBER, TEXT_END, TEXT_WASTE]
#: Rows of `State.numbers` that are working space.
_WORKING_ROWS = slice(MEAN_BEFORE, VALUES)
#: Arrays with a number for each value, beside the scales.
_BY_ROW = ("last", "generation", "column", "length", "field")
#: Types of the arrays that are not of float64; those of values and pairs have the precision of the stage.
_TYPES: dict[str, Any] = {
    **dict.fromkeys((*_BY_ROW, "pairs.size", "pairs.rows"), np.int64),
    "names": np.uint8,
    **dict.fromkeys(("counts", "weights", "scales"), None),
    **dict.fromkeys(("pairs.counts", "pairs.weights", "pairs.scales"), None),
}
#: Scalars that are counts; arrays without negative numbers.
_COUNTS = [SAMPLES, ROWS, CLASSES, RECYCLED, TOUCHED]
_NOT_NEGATIVE = ("scales", "pairs.scales", "bias_scales", "number_scales", "shares", "hedge", "totals")
_MOST = 2**53
#: Arrays that are as large as the number of values or pairs, and arrays that are never changed in place.
_LARGE = {*BY_ROW, *OF_ROWS, *BY_PAIR, "names", "slots"}


def copied(s: State) -> State:
    """Return a copy of everything that learning changes, in little time; `named` reads it in any thread.

    It shares the bytes of the names, which are only appended to or replaced as a whole.
    """
    rows, pairs = int(s.scalars[ROWS]), len(s.pair_scales)
    small = {name: array.copy() for name, array in s._asdict().items() if name not in _LARGE}
    large = {name: getattr(s, name)[:rows].copy() for name in BY_ROW}
    for names, count in ((OF_ROWS, rows), (BY_PAIR, pairs)):
        counts, weights, scales = (getattr(s, name) for name in names)
        large |= zip(names, block_copy(counts, weights, scales, count), strict=True)
    return s._replace(**small, **large)


def named(s: State) -> dict[str, Tensor]:
    """Return copies of everything that learning changes."""
    return {PREFIX + name: torch.from_numpy(np.array(value, order="C")) for name, value in _arrays(s)}


def _arrays(s: State) -> Iterator[tuple[str, NDArray[Any]]]:
    rows, outputs = int(s.scalars[ROWS]), _outputs(s)
    scalars = s.scalars.copy()
    scalars[_WORKING] = 0.0
    yield "scalars", scalars
    yield "counts", _counts(s.counts[:rows], s)
    yield "weights", _by_class(s.weights[:rows])[:, :, :outputs]
    for name in ("scales", *_BY_ROW):
        yield name, getattr(s, name)[:rows]
    text = np.empty(int(s.length[:rows].sum()), np.uint8)
    gather(s, text, np.empty(max(rows, 1), np.int64))
    yield "names", text
    used = np.flatnonzero(s.pair_counts.any(axis=1) | (s.pair_scales != 0))
    yield "pairs.size", np.array(len(s.pair_scales))
    yield "pairs.rows", used
    yield "pairs.counts", _counts(s.pair_counts[used], s)
    yield "pairs.weights", _by_class(s.pair_weights[used])[:, :, :outputs]
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


def _counts(counts: NDArray[Any], s: State) -> NDArray[Any]:
    return counts if s.config[REGRESSION] else counts[:, : _outputs(s)]


def _by_class(weights: NDArray[Any]) -> NDArray[Any]:
    return weights.reshape(len(weights), MEMBERS, weights.shape[1] // MEMBERS)


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
    try:
        given = {n.removeprefix(PREFIX): t.numpy() for n, t in tensors.items() if n.startswith(PREFIX)}
        values = {name: _typed(array, _TYPES.get(name, np.float64)) for name, array in given.items()}
        expected = _Expected(regression, max_values, classes, fields, numbers, evidence)
        problem = next(_problems(values, expected), None)
        if problem is not None:
            raise StateError(f"the state of the sparse stage is damaged: {problem}")
        return _filled(values, untrained(regression, seed, max_values, real), classes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StateError(f"the state of the sparse stage is damaged: {error!r}") from error


def _typed(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return an array of a type, without a conversion that loses the kind of number."""
    return array.astype(array.dtype if dtype is None else dtype, casting="same_kind", copy=False)


class _Expected(NamedTuple):
    """What a state must fit; see `restored`."""

    regression: bool
    max_values: int
    classes: int
    fields: int
    numbers: int
    evidence: int


def _problems(v: Mapping[str, NDArray[Any]], expected: _Expected) -> Iterator[str]:
    scalars, classes = v["scalars"], expected.classes
    if scalars.shape != (SCALARS,) or not _counted(scalars[_COUNTS]) or np.isnan(scalars).any():
        yield "it has no counts of samples, values and classes"
    rows, size = int(scalars[ROWS]), int(v["pairs.size"])
    rooms = [v["counts"].shape[1], v["pairs.counts"].shape[1]]
    for room in rooms:
        narrow = 2 <= room < classes and room & (room - 1) == 0
        if room != (2 if expected.regression else classes) and not narrow:
            yield "its rows have room for another number of classes"
    widths = [1] * 2 if expected.regression else [min(width_of(classes), width_of(room)) for room in rooms]
    most = most_values(expected.max_values, widths[0])
    if rows > most or int(scalars[CLASSES]) != (0 if expected.regression else classes):
        yield "it has other numbers of values or classes than it states"
    shapes = _shapes(expected, rows, len(v["pairs.rows"]), rooms)
    if v.keys() != shapes.keys() | {"names"}:
        yield "a part is missing, or is not known"
    for name, shape in shapes.items():
        if v[name].shape != shape:
            yield f"{name} is of shape {v[name].shape}, not {shape}"
    if rows and not 0 <= v["field"].min() <= v["field"].max() < expected.fields:
        yield "a value has no field"
    if (v["length"] < 0).any() or v["names"].shape != (int(v["length"].sum(dtype=np.int64)),):
        yield "the names have another length than stated"
    if size & (size - 1) or not 0 < size <= LAST_PAIRS or size * widths[1] > MOST_CELLS:
        yield "the number of rows of pairs is no power of two, or too large"
    if len(v["pairs.rows"]) and not 0 <= v["pairs.rows"].min() <= v["pairs.rows"].max() < size:
        yield "a pair has no row"
    yield from _problems_of_numbers(v, expected.regression)


def _problems_of_numbers(v: Mapping[str, NDArray[Any]], regression: bool) -> Iterator[str]:
    """Yield what is wrong with the values of arrays of the right shapes."""
    for name, array in v.items():
        if name != "scalars" and array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"{name} is not finite"
    negative = [name for name in _NOT_NEGATIVE if (v[name] < 0.0).any()]
    counts = [v[name][:, regression:] for name in ("counts", "pairs.counts")]
    if negative or any((each < 0.0).any() for each in counts):
        yield f"{', '.join(negative) or 'a count'} is negative"
    if (
        not (v["shares"].sum(axis=1) > 0.0).all()
        or not min(v["hedge"][:EXPERTS].sum(), v["hedge"][EXPERTS:].sum()) > 0.0
    ):
        yield "all weights of a combination are 0"
    if (v["evidence"][[VARIANCE, NUMBER]] < 0.0).any():
        yield "the moments of the evidence are negative"
    for name in ("numbers", "target"):
        if (v[name][VAR] < 0.0).any() or not _counted(v[name][[VALUES, JOINED, CLIPPED]]):
            yield f"the moments of {name} are negative, or its counts are none"
    inverse = v["stack.inverse"]
    if not np.allclose(inverse, inverse.T, atol=1e-9) or (inverse.diagonal() <= 0.0).any():
        yield "the stack has no inverse of a curvature: it is not symmetric, or not positive"


def _counted(values: NDArray[Any]) -> bool:
    """Return whether all values are integers from 0."""
    return bool(((values >= 0.0) & (values < _MOST) & (values == np.floor(values))).all())


def _shapes(expected: _Expected, rows: int, pairs: int, rooms: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array but the names."""
    regression, classes, numbers = expected.regression, expected.classes, expected.numbers
    room, pair_room = [1, 1] if regression else rooms
    return {
        "scalars": (SCALARS,),
        "counts": (rows, rooms[0]),
        "weights": (rows, MEMBERS, room),
        **dict.fromkeys(("scales", *_BY_ROW), (rows,)),
        "pairs.size": (),
        "pairs.rows": (pairs,),
        "pairs.counts": (pairs, rooms[1]),
        "pairs.weights": (pairs, MEMBERS, pair_room),
        "pairs.scales": (pairs,),
        "bias": (2, MEMBERS, classes),
        "number_weights": (2, MEMBERS, classes, numbers),
        "bias_scales": (2,),
        "number_scales": (2, numbers),
        "shares": (2, MEMBERS),
        "numbers": (BOUND_ROWS, numbers),
        "target": (BOUND_ROWS, 1),
        "evidence": (RAW, expected.evidence),
        "totals": (classes,),
        "hedge": (EXPERTS + 2,),
        "stack.coefficients": (FEATURES,),
        "stack.inverse": (FEATURES, FEATURES),
    }


def _filled(v: Mapping[str, NDArray[Any]], s: State, classes: int) -> State:
    rows, size, real = len(v["length"]), int(v["pairs.size"]), s.scales.dtype
    regression = bool(s.config[REGRESSION])
    width = 1 if regression else width_of(classes)
    made: dict[str, NDArray[Any]] = {}
    for prefix, name, used, count in (
        ("", "", slice(rows), max(rows, 64)),
        ("pairs.", "pair_", v["pairs.rows"], size),
    ):
        counted = v[f"{prefix}counts"]
        room = 1 if regression else min(width, width_of(counted.shape[1]))
        counts, weights, scales = block(count, 2 if regression else room, room, real)
        counts[used, : counted.shape[1]], scales[used] = counted, v[f"{prefix}scales"]
        of_class = v[f"{prefix}weights"]
        for r in range(MEMBERS):
            weights[used, r * room : r * room + of_class.shape[2]] = of_class[:, r]
        made |= {f"{name}counts": counts, f"{name}weights": weights, f"{name}scales": scales}
    for name in _BY_ROW:
        made[name] = _placed((max(rows, 64),), v[name], getattr(s, name).dtype)
    made["start"] = _placed((max(rows, 64),), np.cumsum(v["length"], dtype=np.int64) - v["length"], np.int64)
    made["names"] = _placed((max(len(v["names"]), 64),), v["names"], np.uint8)
    made["slots"] = np.full(1 << max(3 * rows - 1, 127).bit_length(), -1, np.int32)
    numbers = v["numbers"].shape[1]
    for name in ("bias_scales", "number_scales", "shares", "numbers", "target", "scalars"):
        made[name] = v[name].copy()
    made["bias"] = _placed((2, MEMBERS, width), v["bias"], np.float64)
    made["number_weights"] = _placed((2, MEMBERS, width, numbers), v["number_weights"], np.float64)
    made["totals"] = _placed((width,), v["totals"], np.float64)
    made["evidence"] = _placed((EVIDENCE_ROWS, v["evidence"].shape[1]), v["evidence"], np.float64)
    made |= {"outputs": np.zeros((len(s.outputs), width)), "z": np.zeros(numbers)}
    made["numeric"] = np.zeros(numbers, np.int64)
    made["places"] = np.full((s.places.shape[0], 2, width + 1), -1, np.int32)
    made["scalars"][TEXT_END] = len(v["names"])
    s = s._replace(**made)
    s.config[MAX_VALUES] = most_values(int(s.config[MAX_VALUES]), made["weights"].shape[1] // MEMBERS)
    s.hedge[WEIGHT], s.stack[COEFFICIENTS] = v["hedge"], v["stack.coefficients"]
    s.stack[INVERSE:] = v["stack.inverse"]
    link_all(s)
    return s


def _placed(shape: tuple[int, ...], value: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return an array of zeros with `value` in its corner."""
    array = np.zeros(shape, dtype)
    array[tuple(slice(n) for n in value.shape)] = value
    return array
